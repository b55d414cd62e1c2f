"""What a report card shows of models: their scores by suite and conditions, shapes and costs, lineage, limits."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama2_core.footprint import parameter_count
from llama2_core.presets import LLAMA_7B, LLAMA_13B, LLAMA_34B, LLAMA_70B
from storage.artifacts import short_name
from tasks.benchmark_recipe import suites
from tasks.card_facts import CLEAN, UNKNOWN, Conditions, Known
from tasks.curve_figures import draw, points_of
from tasks.data_card_page import DataCard
from tasks.report_figures import Figure, Points
from tasks.report_tables import interval
from tasks.suite_tables import Row, Table, compact, contamination_table, is_of, score_table, suite_table

PAPER = {
    "7B": (LLAMA_7B, 184_320, 400, 31.22),
    "13B": (LLAMA_13B, 368_640, 400, 62.44),
    "34B": (LLAMA_34B, 1_038_336, 350, 153.90),
    "70B": (LLAMA_70B, 1_720_320, 400, 291.42),
}
"""Shape, GPU-hours, watts a GPU, tonnes of CO2: Llama 2 Tables 1 and 2."""
ALWAYS = "table3"
"""The suite whose table is there, at the end, even when nothing of it was run."""
NOTHING = "Nothing of it was run"


@dataclass(frozen=True)
class Scored:
    """Scores that were asked for under the same conditions, of a suite or of none."""

    title: str
    conditions: str
    table: Table


def scored(models: Sequence[Known]) -> list[Scored]:
    """Return a table a suite and conditions, then one a conditions of what no suite holds."""
    found = []
    for suite in suites():
        asked = [of for of in _conditions(models) if any(_of_suite(suite, row) for row in _rows(models, of))]
        found += [Scored(suite, of.words, compact(suite_table(suite, _by_model(models, of)))) for of in asked]
    for of in _conditions(models):
        others = {
            label: [row for row in rows if not any(_of_suite(suite, row) for suite in suites())]
            for label, rows in _by_model(models, of).items()
        }
        if any(others.values()):
            found.append(Scored("Other scores", of.words, score_table(others)))
    if not any(each.title == ALWAYS for each in found):
        nothing = suite_table(ALWAYS, {model.label: [] for model in models})
        found.append(Scored(ALWAYS, NOTHING, compact(nothing)))
    return found


def missing(models: Sequence[Known], home: Sequence[str]) -> dict[str, str]:
    """Return the command that makes what is absent: of each model's suites that were not run, or not whole."""
    commands = {}
    for model in models:
        rows = [row for of_conditions in model.scores.values() for row in of_conditions]
        name = model.artifact.name if model.artifact else model.label
        for suite, groups in suites().items():
            members = [member for group in groups.values() for member in group.members]
            absent = [member.task for member in members if not any(is_of(member, row) for row in rows)]
            if absent:
                what = "all" if len(absent) == len(members) else ", ".join(absent)
                command = shlex.join(["llama2", "evaluate", name, "--suite", suite, "--available", *home])
                commands[f"{model.label}, {suite}: {what}"] = command
    return commands


def _conditions(models: Sequence[Known]) -> list[Conditions]:
    return list(dict.fromkeys(conditions for model in models for conditions in model.scores))


def _by_model(models: Sequence[Known], of: Conditions) -> dict[str, Sequence[Row]]:
    return {model.label: model.scores.get(of, []) for model in models}


def _rows(models: Sequence[Known], of: Conditions) -> list[Row]:
    return [row for rows in _by_model(models, of).values() for row in rows]


def _of_suite(suite: str, row: Row) -> bool:
    return any(is_of(member, row) for group in suites()[suite].values() for member in group.members)


def marks(models: Sequence[Known]) -> set[str]:
    """Return the marks that scores carry."""
    return {row["mark"] for model in models for rows in model.scores.values() for row in rows} - {CLEAN}


def contamination_rows(models: Sequence[Known]) -> Table:
    """Return the four subsets of each task of which samples were found (Llama 2 Table 51)."""
    table: Table = []
    for model in models:
        for rows in model.searches:
            hit = {row["task"] for row in rows if row["subset"] == "not clean" and row["n"]}
            shown = contamination_table([row for row in rows if row["task"] in hit])
            table += [{"model": model.label, **row} for row in shown]
    return table


def examination_table(models: Sequence[Known]) -> Table:
    """Return one row a suite of held-out prompts, a column a model."""
    found = {model.label: model.examination for model in models}
    return [
        {
            "suite": suite,
            **{label: interval(facts[suite]) if suite in facts else "–" for label, facts in found.items()},
        }
        for suite in dict.fromkeys(suite for facts in found.values() for suite in facts)
    ]


def model_table(models: Sequence[Known]) -> Table:
    """Return one row a model, and the paper's: shape, training tokens, what the whole lineage took."""
    rows = []
    for model in models:
        least = "≥ " if model.outside or model.gone else ""
        took = _took(model.total("wall_seconds"), model.total("energy_kwh"), model.total("kg_co2"), least)
        tokens = f"{least}{model.tokens:,}" if model.tokens else "unknown"
        rows.append({"model": model.label, **_shape(model.config), "training tokens": tokens, **took})
    for size, (config, hours, watts, tonnes) in PAPER.items():
        took = _took(3600 * hours, hours * watts / 1000, 1000 * tonnes)
        rows.append({"model": f"Llama 2 {size}", **_shape(config), "training tokens": "2.0T", **took})
    return rows


def _shape(config: Any) -> dict[str, str]:
    return {
        "parameters": f"{parameter_count(config):,}",
        "layers": str(config.n_layers),
        "width": str(config.dim),
        "heads (KV)": f"{config.n_heads} ({config.n_kv_heads})",
        "context": f"{config.max_seq_len:,}",
        "vocabulary": f"{config.vocab_size:,}",
    }


def _took(seconds: float, kwh: float, kg: float, least: str = "") -> dict[str, str]:
    amounts = {"hours": seconds / 3600, "kWh": kwh, "kg CO₂": kg}
    return {
        of: f"{least}{much:,.0f}" if much >= 100 else f"{least}{much:.3g}" for of, much in amounts.items()
    }


def lineage_table(models: Sequence[Known]) -> Table:
    """Return one row an artifact: what it was made from and took, and which models come from it."""
    everything = {artifact.full_name: artifact for model in models for artifact in model.lineage}
    table = []
    for name, artifact in everything.items():
        m = artifact.manifest
        of = [model.label for model in models if any(a.full_name == name for a in model.lineage)]
        table.append(
            {
                "artifact": artifact.name,
                "made": m.created_at[:16].replace("T", " "),
                "seconds": f"{m.wall_seconds:,.1f}",
                "Wh": f"{1000 * m.energy_kwh:.3g}",
                "g CO₂": f"{1000 * m.kg_co2:.3g}",
                "commit": m.git_commit[:12] or "–",
                "of": ", ".join(of),
                "made from": ", ".join(f"{role} {short_name(parent)}" for role, parent in m.parents.items())
                or "–",
            }
        )
    return table


def data_of(models: Sequence[Known]) -> list[tuple[str, DataCard | None]]:
    """Return each data card once, with the models that it is of; None for those that have none."""
    cards = {model.data.corpus if model.data else "": model.data for model in models}
    return [
        (" and ".join(m.label for m in models if (m.data.corpus if m.data else "") == corpus), card)
        for corpus, card in cards.items()
    ]


def figures(models: Sequence[Known]) -> list[Figure]:
    """Return the training curves of all lineages, a chart a kind of stage."""
    curves: dict[str, dict[str, Points]] = {}
    for artifact in {a.full_name: a for model in models for a in model.lineage}.values():
        if points := points_of(artifact):
            curves.setdefault(artifact.kind, {})[artifact.name[:-6]] = points
    return [draw(kind, found) for kind, found in curves.items()]


def limits(model: Known) -> list[str]:
    """Return what is to be known before the model is used, as far as the facts tell."""
    said = []
    if model.outside:
        said.append("What it, or the model that it began from, was trained on is not known here.")
    elif model.tokens:
        said.append(
            f"It has {model.parameters:,} parameters and was pretrained on {model.tokens:,} tokens, Llama 2 on 2 "
            "trillion: its scores compare with the paper's in method, not in scale."
        )
    if model.data and model.data.languages:
        first = model.data.languages[0]
        said.append(
            f"{first['%']}% of the documents read are {first['language']}; what it can of others was not tested."
        )
    if "simulated" in model.annotators:
        said.append("Its preferences are those of a simulated annotator, a scripted rubric, not of people.")
    rows = [row for of_conditions in model.scores.values() for row in of_conditions]
    if not any(_of_suite("safety", row) for row in rows):
        said.append("It was not tested on safety benchmarks.")
    if not rows:
        said.append("It was not tested on any published benchmark.")
    elif any(row["mark"] == UNKNOWN for row in rows):
        said.append("Whether its benchmarks stood in its training data was not searched for all of them.")
    if model.gone:
        said.append(
            f"Of its lineage {', '.join(map(short_name, model.gone))} is not in the store: costs are a lower bound."
        )
    said.append(
        "Like all such models it may state what is false, and answer in ways that are biased or harmful; no test "
        "covers every use. Test it for yours before you deploy it."
    )
    return said
