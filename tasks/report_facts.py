"""What the report says, as one record: read from the store, before any drawing."""

import json
from typing import Any

from llama2_core.config import Record
from llama2_core.rlhf.reward import GRADES
from storage.metrics import read_metrics
from storage.schemas import RESPONSES, read_table
from tasks.evaluate import score_table
from tasks.launch import find
from tasks.pipeline import command
from tasks.recipes import Llama2Recipe
from tasks.runtime import Runtime

DIALOGS_SHOWN = 10
KG_CO2_PER_KWH = 0.4235
"""Implied by every row of Llama 2 Table 2."""
MODELS = ("base", "sft", "rejection", "ppo")


class StageFact(Record):
    """One artifact of the run."""

    stage: str
    artifact: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    parents: dict[str, str]


class ReportFacts(Record):
    """Everything on the page."""

    command: str
    seed: int
    stages: list[StageFact]
    scores: list[dict[str, str]]
    evaluations: dict[str, dict[str, Any]]
    verdict: dict[str, Any]
    corpus: dict[str, Any]
    curves: dict[str, list[dict[str, float]]]
    reward_accuracy: dict[str, dict[str, Any]]
    reward_curve: list[dict[str, float]]
    comparisons: dict[str, dict[str, Any]]
    dialogs: list[dict[str, str]]
    wall_seconds: float
    energy_watt_hours: float
    co2_grams: float
    peak_memory_bytes: int


def gather(recipe: Llama2Recipe, stages: dict[str, str], runtime: Runtime) -> ReportFacts:
    """Read the facts of a finished run."""
    artifacts = {stage: find(name, runtime) for stage, name in stages.items()}
    samples = find(artifacts["rejection"].manifest.parents["samples"], runtime)
    artifacts["rejection samples"] = samples
    facts = []
    for stage, artifact in artifacts.items():
        m = artifact.manifest
        facts.append(
            StageFact(
                stage=stage,
                artifact=f"{m.kind}/{m.digest}",
                wall_seconds=m.wall_seconds,
                cpu_seconds=m.cpu_seconds,
                peak_memory_bytes=m.peak_memory_bytes,
                parents=m.parents,
            )
        )
    cpu_seconds = sum(fact.cpu_seconds for fact in facts)
    watt_hours = cpu_seconds * runtime.watts_per_core / 3600
    curves = {
        stage: read_metrics(artifact.path / "metrics.jsonl")
        for stage, artifact in artifacts.items()
        if (artifact.path / "metrics.jsonl").exists() and artifact.kind in ("base", "chat", "reward", "ppo")
    }
    evaluations = {stage: artifacts[f"evaluation of {stage}"] for stage in MODELS}
    return ReportFacts(
        command=command(runtime),
        seed=recipe.seed,
        stages=facts,
        scores=score_table({s: f"{a.kind}/{a.digest}" for s, a in evaluations.items()}, runtime),
        evaluations={stage: artifact.summary for stage, artifact in evaluations.items()},
        verdict=artifacts["gate"].summary,
        corpus=artifacts["corpus"].summary,
        curves=curves,
        reward_accuracy={
            stage: artifact.summary["accuracy"]
            for stage, artifact in artifacts.items()
            if artifact.kind == "reward"
        },
        reward_curve=samples.summary["reward_curve"],
        comparisons={s: a.summary for s, a in artifacts.items() if a.kind == "comparisons"},
        dialogs=side_by_side(
            {s: a.path / "responses.parquet" for s, a in evaluations.items() if s != "base"}
        ),
        wall_seconds=sum(fact.wall_seconds for fact in facts),
        energy_watt_hours=watt_hours,
        co2_grams=watt_hours * KG_CO2_PER_KWH,
        peak_memory_bytes=max(fact.peak_memory_bytes for fact in facts),
    )


def side_by_side(paths: dict[str, Any]) -> list[dict[str, str]]:
    """Return a few prompts of every kind with each model's answer: the first of each kind, unchosen."""
    answers: dict[str, dict[str, str]] = {}
    for stage, path in paths.items():
        for row in read_table(path, RESPONSES):
            if row["suite"] == "side by side":
                shown = answers.setdefault(
                    row["prompt_id"], {"kind": row["kind"], "prompt": last_turn(row["prompt"])}
                )
                shown[stage] = row["response"]
    by_kind: dict[str, list[dict[str, str]]] = {}
    for row in answers.values():
        by_kind.setdefault(row["kind"], []).append(row)
    return [row for rows in by_kind.values() for row in rows[: DIALOGS_SHOWN // len(by_kind)]]


def last_turn(dialog: str) -> str:
    return json.loads(dialog)[-1]["content"]


def accuracy_table(accuracy: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return one row a reward model and domain: right answers by grade, in percent (Llama 2 Table 8)."""
    rows = []
    for model, domains in accuracy.items():
        for domain, grades in domains.items():
            cells = {name: grades[name] for name in (*GRADES, "all")}
            shares = {
                n: f"{100 * c['right'] / c['n']:.1f} (n={c['n']})" if c["n"] else "–"
                for n, c in cells.items()
            }
            rows.append({"model": model, "held-out comparisons": domain, **shares})
    return rows
