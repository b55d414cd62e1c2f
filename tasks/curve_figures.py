"""The curve of a stage, as the report card and Prefect show it."""

import base64
from collections.abc import Mapping
from typing import NamedTuple

from storage.artifacts import Artifact
from storage.metrics import read_metrics
from tasks.report_figures import Figure, Points, curve_figure, pick

SHOWN = 8
"""Curves in one chart, the newest."""


class Curve(NamedTuple):
    """What is drawn of a kind's metrics."""

    name: str
    title: str
    x: str
    metric: str
    unit: str


CURVES = {
    "base": Curve("pretraining", "Pretraining", "update", "loss", "nats a token"),
    "chat": Curve("fine-tuning", "Fine-tuning", "update", "loss", "nats a token"),
    "reward": Curve("reward-models", "Reward models", "update", "loss", "nats a pair"),
    "ppo": Curve("ppo", "PPO", "iteration", "reward", "mean reward"),
    "dpo": Curve("dpo", "DPO", "update", "loss", "nats a pair"),
}


def points_of(artifact: Artifact) -> Points:
    """Return what a stage's chart shows, nothing where it has none."""
    curve = CURVES.get(artifact.kind)
    return pick(read_metrics(artifact.path / "metrics.jsonl"), curve.metric) if curve else []


def draw(kind: str, found: Mapping[str, Points]) -> Figure:
    """Return one chart of stages of a kind, by what they are called."""
    curve, newest = CURVES[kind], dict(list(found.items())[-SHOWN:])
    return Figure(curve.name, curve.title, curve_figure(newest, curve.x, curve.unit))


def as_url(figure: Figure) -> str:
    """Return a chart as the address of an image that holds all of itself."""
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.svg.encode()).decode()}"
