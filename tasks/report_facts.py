"""What the report says, as one record: read from the store, before any drawing."""

import os.path
import shlex
from pathlib import Path
from typing import Any

from llama2_core.chat import Dialog
from llama2_core.config import Record
from storage.metrics import read_metrics
from storage.schemas import RESPONSES, read_table
from tasks.evaluate import score_table
from tasks.launch import find
from tasks.pipeline import command, profile, profile_path
from tasks.recipes import Llama2Recipe
from tasks.runtime import Runtime
from tasks.tables import dialog_from_json

DIALOGS_SHOWN = 10
MODELS = ("base", "sft", "rejection", "ppo")


class StageFact(Record):
    """One artifact of the run."""

    stage: str
    artifact: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    energy_watt_hours: float
    co2_grams: float
    energy_method: str
    parents: dict[str, str]


class DialogFact(Record):
    """One held-out prompt with the answers of the stages that were asked."""

    kind: str
    dialog: Dialog
    answers: dict[str, str]


class ReportFacts(Record):
    """Everything on the page."""

    commands: dict[str, str]
    """What it is for -> the command."""
    profile_name: str
    profile: str
    seed: int
    stages: list[StageFact]
    scores: list[dict[str, str]]
    evaluations: dict[str, dict[str, Any]]
    verdict: dict[str, Any]
    corpus: dict[str, Any]
    data_card: str
    """Path of its page from the report's."""
    reward_report: str
    """The same of the newest reward models' report."""
    curves: dict[str, list[dict[str, float]]]
    reward_accuracy: dict[str, dict[str, Any]]
    reward_curve: list[dict[str, float]]
    temperature_curve: list[dict[str, float]]
    ppo_findings: list[dict[str, Any]]
    """Bounds that PPO broke, each with what that means."""
    comparisons: dict[str, dict[str, Any]]
    dialogs: list[DialogFact]
    wall_seconds: float
    energy_watt_hours: float
    co2_grams: float
    energy_methods: list[str]
    """How they are known."""
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
                energy_watt_hours=1000 * m.energy_kwh,
                co2_grams=1000 * m.kg_co2,
                energy_method=m.energy_method,
                parents=m.parents,
            )
        )
    curves = {
        stage: read_metrics(artifact.path / "metrics.jsonl")
        for stage, artifact in artifacts.items()
        if (artifact.path / "metrics.jsonl").exists() and artifact.kind in ("base", "chat", "reward", "ppo")
    }
    evaluations = {stage: artifacts[f"evaluation of {stage}"] for stage in MODELS}
    verdict = artifacts["gate"]
    kept = artifacts[verdict.summary["champion"]]
    home = [] if runtime.home == Path("var") else ["--home", str(runtime.home)]
    return ReportFacts(
        commands={
            "make every artifact again": command(recipe, runtime),
            "what this page's scores were made from": shlex.join(
                ["llama2", "artifacts", "lineage", verdict.name, *home]
            ),
            "talk to the model that the gate kept": shlex.join(["llama2", "chat", kept.name, *home]),
        },
        profile_name=profile_path(recipe, runtime).name,
        profile=profile(recipe, runtime),
        seed=recipe.seed,
        stages=facts,
        scores=score_table({s: a.full_name for s, a in evaluations.items()}, runtime),
        evaluations={stage: artifact.summary for stage, artifact in evaluations.items()},
        verdict=verdict.summary,
        corpus=artifacts["corpus"].summary,
        data_card=os.path.relpath(artifacts["data card"].file("card.html"), runtime.home / "report"),
        reward_report=os.path.relpath(
            artifacts["reward report 2"].file("report.html"), runtime.home / "report"
        ),
        curves=curves,
        reward_accuracy={
            stage: artifact.summary["accuracy"]
            for stage, artifact in artifacts.items()
            if artifact.kind == "reward"
        },
        reward_curve=samples.summary["reward_curve"],
        temperature_curve=samples.summary["temperature_curve"],
        ppo_findings=artifacts["ppo"].summary["findings"],
        comparisons={s: a.summary for s, a in artifacts.items() if a.kind == "comparisons"},
        dialogs=side_by_side({s: a.path / "responses.parquet" for s, a in evaluations.items()}),
        wall_seconds=sum(fact.wall_seconds for fact in facts),
        energy_watt_hours=sum(fact.energy_watt_hours for fact in facts),
        co2_grams=sum(fact.co2_grams for fact in facts),
        energy_methods=sorted({fact.energy_method for fact in facts}),
        peak_memory_bytes=max(fact.peak_memory_bytes for fact in facts),
    )


def side_by_side(paths: dict[str, Path]) -> list[DialogFact]:
    """Return a few prompts of every kind with each model's answer: the first of each kind, unchosen."""
    asked: dict[str, DialogFact] = {}
    for stage, path in paths.items():
        for row in read_table(path, RESPONSES):
            if row["suite"] == "side by side":
                dialog = dialog_from_json(row["prompt"])
                fact = asked.setdefault(
                    row["prompt_id"], DialogFact(kind=row["kind"], dialog=dialog, answers={})
                )
                fact.answers[stage] = row["response"]
    by_kind: dict[str, list[DialogFact]] = {}
    for fact in asked.values():
        by_kind.setdefault(fact.kind, []).append(fact)
    return [fact for facts in by_kind.values() for fact in facts[: DIALOGS_SHOWN // len(by_kind)]]
