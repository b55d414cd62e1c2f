"""What the safety stages show: tables with intervals in Prefect, numbers and a figure in MLflow."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.config import Record
from llama2_core.evaluation.statistics import bootstrap
from storage.artifacts import Artifact
from storage.disk import atomic_write
from storage.safety_tables import ANSWERS, DISTILLED
from storage.schemas import read_table
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.report_figures import bar_figure, interval_figure
from tasks.report_tables import interval
from tasks.runtime import Runtime
from tasks.stage_run import tracker

FIGURE, TABLE = "figure.svg", "table.json"
BINS = 10
Table = list[dict[str, str]]


class SafetyReportRecipe(Record):
    """A report is defined by what it is made from."""


@task(name="distillation report", task_run_name="report on context distillation", cache_policy=NO_CACHE)
def distillation_report(distilled: dict[str, str], answers: dict[str, str], runtime: Runtime) -> str:
    """Show what the gate did by style, and the held-out answers by model, the first of them from before."""
    gates = {style: find(name, runtime) for style, name in distilled.items()}
    after = {label: find(name, runtime) for label, name in answers.items()}

    def work(directory: Path) -> dict[str, Any]:
        atomic_write(directory / FIGURE, safety_histogram(gates).encode())
        gains = lifts(after)
        told = [{}, *({"gain": _score(gain)} for gain in gains.values())]
        rows = [row | gain for row, gain in zip(answer_table(after), told, strict=True)]
        _write_table(directory, [*gate_table(gates), *rows])
        return {
            "gate": {style: gate.summary for style, gate in gates.items()},
            "answers": {label: found.summary for label, found in after.items()},
            "held_out_lift": gains,
        }

    parents = {
        **{f"distilled {k}": v for k, v in distilled.items()},
        **{f"answers {k}": v for k, v in answers.items()},
    }
    return _publish("context distillation", parents, runtime, work)


@task(name="scaling report", task_run_name="report on safety data", cache_policy=NO_CACHE)
def scaling_report(shown: dict[str, str], answers: dict[str, str], runtime: Runtime) -> str:
    """Show scores and false refusals by share of the safety data, percent -> demonstrations and answers' scores."""
    counts = {share: find(name, runtime).summary["safety"] for share, name in shown.items()}
    found = {share: find(name, runtime) for share, name in answers.items()}

    def work(directory: Path) -> dict[str, Any]:
        summaries = {share: artifact.summary for share, artifact in found.items()}
        atomic_write(directory / FIGURE, scaling_figure(summaries).encode())
        rows = answer_table({f"{share}% safety data": artifact for share, artifact in found.items()})
        told = [{"safety demonstrations": f"{count:,}"} for count in counts.values()]
        _write_table(
            directory,
            [{"answers": row.pop("answers"), **count, **row} for row, count in zip(rows, told, strict=True)],
        )
        return {"safety_demonstrations": counts, "answers": summaries}

    parents = {
        **{f"demonstrations {k}": v for k, v in shown.items()},
        **{f"answers {k}": v for k, v in answers.items()},
    }
    return _publish("safety data scaling", parents, runtime, work)


def gate_table(gates: Mapping[str, Artifact]) -> Table:
    """Return one row a style: how safe the answers to training prompts were without and with it, and the gate's."""
    return [
        {
            "answers": f"training prompts, {which} ({style})",
            "prompts": f"{facts['prompts']:,}",
            **_safety(facts["safety"][which]),
            "gain": "–" if which == "original" else _score(facts["lift"]),
            "kept": "–" if which == "original" else f"{facts['kept']:,}",
            "rejected": "–" if which == "original" else f"{facts['rejected']:,}",
        }
        for style, facts in ((style, gate.summary) for style, gate in gates.items())
        for which in facts["safety"]
    ]


def answer_table(answers: Mapping[str, Artifact]) -> Table:
    """Return one row a model: scores of its held-out answers, and refusals with their counts."""
    return [
        {
            "answers": f"held-out prompts, {label}",
            **_safety(facts["safety"]),
            "mean helpfulness": _score(facts["helpfulness"]["mean"]),
            "unsafe answers, %": _counted(facts["unsafe_answers"]),
            "helpful prompts refused, %": _counted(facts["helpful_refusals"]),
            "borderline prompts refused, %": _counted(facts["borderline_refusals"]),
        }
        for label, facts in ((label, found.summary) for label, found in answers.items())
    ]


def _counted(fact: Mapping[str, float]) -> str:
    return f"{interval(dict(fact))}, {round(fact['value'] * fact['n'])} of {fact['n']}"


def _safety(facts: Mapping[str, Any]) -> dict[str, str]:
    return {f"{name} safety": _score(facts[name]) for name in ("mean", "median")}


def _score(fact: Mapping[str, float]) -> str:
    return f"{fact['value']:.3f} ({fact['low']:.3f} to {fact['high']:.3f})"


def lifts(answers: Mapping[str, Artifact]) -> dict[str, dict[str, float]]:
    """Return the mean gain in safety over the first model's answers to the same adversarial prompts, by model."""
    by_prompt = {
        label: {
            row["prompt_id"]: row["safety"]
            for row in read_table(found.file("answers.parquet"), ANSWERS)
            if row["kind"] == "unsafe"
        }
        for label, found in answers.items()
    }
    first, *others = by_prompt
    before = by_prompt[first]
    return {
        label: bootstrap([by_prompt[label][prompt] - score for prompt, score in before.items()]).as_dict()
        for label in others
    }


def safety_histogram(gates: Mapping[str, Artifact]) -> str:
    """Draw how the safety scores of answers with and without preprompts are spread. Llama 2 Figure 16."""
    rows = {style: read_table(gate.file("distilled.parquet"), DISTILLED) for style, gate in gates.items()}
    scores = {style: [row["safety"] for row in of] for style, of in rows.items()}
    scores = {"no preprompt": [row["original_safety"] for row in next(iter(rows.values()))], **scores}
    edges = np.linspace(0, 1, BINS + 1)
    bars = {
        name: {
            f"{low:.1f}": float(count) / len(values)
            for low, count in zip(edges, np.histogram(values, edges)[0], strict=False)
        }
        for name, values in scores.items()
    }
    return bar_figure(bars, "safety score from", "share of answers")


def scaling_figure(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw mean scores and false refusals over the share of the safety data. Llama 2 Figures 14 and 15."""

    def of(*path: str) -> dict[str, Mapping[str, float]]:
        picked: dict[str, Any] = dict(summaries)
        for name in path:
            picked = {share: facts[name] for share, facts in picked.items()}
        return picked

    return interval_figure(
        {
            "mean reward score": {"safety": of("safety", "mean"), "helpfulness": of("helpfulness", "mean")},
            "share refused or unsafe": {
                "borderline prompts refused": of("borderline_refusals"),
                "helpful prompts refused": of("helpful_refusals"),
                "unsafe answers": of("unsafe_answers"),
            },
        },
        "safety data, %",
    )


def _write_table(directory: Path, rows: Table) -> None:
    columns = dict.fromkeys((name for row in rows for name in row), "–")
    atomic_write(directory / TABLE, json.dumps([columns | row for row in rows], ensure_ascii=False).encode())


def _publish(
    label: str, parents: dict[str, str], runtime: Runtime, work: Callable[[Path], dict[str, Any]]
) -> str:
    name = build(Job(label, "safety-report", SafetyReportRecipe(), parents=parents), runtime, work)
    report, tracking = find(name, runtime), tracker(runtime)
    if run_id := tracking.newest(report.digest):
        for file in (FIGURE, TABLE):
            tracking.log_file(run_id, report.file(file))
    table = json.loads(report.file(TABLE).read_text(encoding="utf-8"))
    create_table_artifact(
        key=label.replace(" ", "-"), table=table, description=f"{label}, with 95% intervals"
    )
    return name
