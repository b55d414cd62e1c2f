"""What the reports on models beside each other show: tables, charts and examples, from artifacts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from llama2_core.evaluation.diversity import self_bleu
from llama2_core.evaluation.statistics import bootstrap
from storage.arena_tables import REPLIES, VERDICTS
from storage.artifacts import Artifact
from storage.schemas import read_rows, read_table
from tasks.arena_tally import WORTH
from tasks.report_figures import Figure, interval_figure
from tasks.report_tables import Table, interval
from tasks.tables import dialog_from_json, read_prompt_rows

EXAMPLES = 3
"""Shown of each outcome."""
JUDGES = {
    "rewards": "the reward models, that of safety for safety prompts and that of helpfulness for all others",
    "judge": "a language model in both orders: where they contradict each other it is a tie",
    "people": "people, blind and in random order",
}
WIN_RATES = (
    "Judged by {judge}. Percent, with 95% intervals by bootstrap over prompts. The unjudged do not count."
)
RATINGS = (
    "Five points; 2 and 1 are violations, where most raters say so (Llama 2 section 4.4). Percent with Wilson's 95% "
    "intervals, mean ratings with intervals by bootstrap over answers."
)
DIVERSITY = (
    "Self-BLEU: BLEU-4 of each sample of a prompt with the others as references, 1 where all say the same; mean over "
    "prompts, with 95% intervals by bootstrap. In Llama 2's Figure 21, RLHF holds factual answers together at any "
    "temperature, and lets creative ones spread."
)
Facts = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What is on the page."""

    title: str
    lead: str
    cards: dict[str, str]
    table: Table
    figures: Sequence[Figure]
    summary: Facts
    """Of the report's artifact."""
    examples: Sequence[Facts] = field(default_factory=tuple)


def arena_study(found: Artifact) -> Study:
    """Return win rates of one model over another."""
    facts, judge = found.summary, found.manifest.recipe["judge"]
    first, second = facts["models"]
    overall = facts["rates"]["all"]["all"]
    said = JUDGES[judge["kind"]] + (f" ({judge['server']})" if "server" in judge else "")
    cards = {f"{first} over {second}, win + tie / 2, percent": interval(overall["rate"])}
    cards |= {f"{name}, percent of {overall['prompts']}": _percent(overall[name]) for name in WORTH}
    cards |= {f"prompts: {detail}": str(count) for detail, count in facts["details"].items()}
    return Study(
        title=f"{first} against {second}",
        lead=WIN_RATES.format(judge=said),
        cards=cards | _agreement(facts),
        table=[
            {
                "prompts": name,
                "n": f"{of['prompts']:,}",
                "not judged": f"{of['unjudged']:,}",
                "win + tie / 2": interval(of["rate"]),
                **{outcome: interval(of[outcome]) for outcome in WORTH},
            }
            for name, of in _in_rows(facts["rates"])
        ],
        figures=_by_group({first: facts["rates"]}, "rate", "win + tie / 2"),
        summary={"rate": overall["rate"], **{name: overall[name]["value"] for name in WORTH}},
        examples=list(_examples(found)),
    )


def ratings_study(found: Artifact) -> Study:
    """Return violations by model."""
    facts = found.summary
    models = facts["violations"]
    overall = {model: groups["all"]["all"]["violation"] for model, groups in models.items()}
    cards = {f"violations of {model}, percent": interval(of) for model, of in overall.items()}
    return Study(
        title="Safety, rated by people",
        lead=RATINGS,
        cards=cards | _agreement(facts),
        table=[
            {
                "model": model,
                "prompts": name,
                "n": f"{of['prompts']:,}",
                "violations, %": interval(of["violation"]),
                "mean rating": _plain(of["rating"], 2),
            }
            for model, groups in models.items()
            for name, of in _in_rows(groups)
        ],
        figures=_by_group(models, "violation", "share of violations"),
        summary=overall,
        examples=list(_examples(found)),
    )


def diversity_study(prompts: Artifact, replies: Mapping[str, Artifact]) -> Study:
    """Return Self-BLEU by model, kind of prompt and temperature."""
    kinds = {row["id"]: row["kind"] for row in read_prompt_rows(prompts.path, "held_out")}
    measured = {
        label: by_temperature(read_rows(of.file("replies.parquet"), REPLIES), kinds)
        for label, of in replies.items()
    }
    names = sorted(set(kinds.values()))
    curves = {kind: {label: of[kind] for label, of in measured.items() if kind in of} for kind in names}
    return Study(
        title="Diversity by temperature",
        lead=DIVERSITY,
        cards={f"{kind} prompts": str(list(kinds.values()).count(kind)) for kind in names},
        table=[
            {
                "model": label,
                "prompts": kind,
                "temperature": temperature,
                "n": f"{of['n']}",
                "Self-BLEU": _plain(of, 3),
            }
            for kind, models in curves.items()
            for label, temperatures in models.items()
            for temperature, of in temperatures.items()
        ],
        figures=[
            Figure(
                f"diversity-{number}",
                f"{kind} prompts",
                interval_figure({"Self-BLEU": models}, "temperature"),
            )
            for number, (kind, models) in enumerate(curves.items(), 1)
        ],
        summary=measured,
    )


def by_temperature(rows: Iterable[Facts], kinds: Mapping[str, str]) -> dict[str, dict[str, Facts]]:
    """Return kind -> temperature -> mean Self-BLEU, of the prompts with two answers or more that say something."""
    said: dict[tuple[str, float], list[str]] = defaultdict(list)
    for row in rows:
        if row["response"].strip():
            said[row["prompt_id"], row["temperature"]].append(row["response"])
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (prompt, temperature), texts in sorted(said.items(), key=lambda one: one[0][1]):
        if len(texts) > 1:
            values[kinds[prompt]][f"{temperature:g}"].append(self_bleu(texts))
    return {kind: {at: bootstrap(of).as_dict() for at, of in curve.items()} for kind, curve in values.items()}


def _examples(found: Artifact) -> Iterator[Facts]:
    """Yield some rows of each outcome."""
    rows = read_table(found.file("verdicts.parquet"), VERDICTS)
    people = found.manifest.recipe["judge"]["kind"] == "people"
    for outcome in sorted({row["outcome"] for row in rows}):
        for row in islice((row for row in rows if row["outcome"] == outcome), EXAMPLES):
            rated = [f"{name}: {rating:g}" for name, rating in zip(row["said"], row["ratings"], strict=False)]
            yield {
                **{name: row[name] for name in ("kind", "outcome", "detail")},
                "dialog": dialog_from_json(row["dialog"]),
                "answers": list(zip(row["models"], row["answers"], strict=True)),
                "said": rated if people else row["said"],
            }


def _in_rows(groups: Mapping[str, Mapping[str, Facts]]) -> Iterator[tuple[str, Facts]]:
    for group, found in groups.items():
        for name, of in found.items():
            yield (f"turns: {name}" if group == "turns" else name), of


def _by_group(models: Mapping[str, Mapping[str, Mapping[str, Facts]]], fact: str, title: str) -> list[Figure]:
    groups = [name for name, found in next(iter(models.values())).items() if name != "all" and found]
    return [
        Figure(
            f"by-{group}",
            f"By {group}",
            interval_figure(
                {title: {m: {name: of[fact] for name, of in found[group].items()} for m, found in models.items()}},
                group,
            ),
        )
        for group in groups
    ]  # fmt: skip


def _agreement(facts: Facts) -> dict[str, str]:
    agreed = facts.get("agreement", {"n": 0})
    return {"agreement of raters, Gwet's AC2": _plain(agreed, 2)} if agreed["n"] else {}


def _percent(fact: Mapping[str, float]) -> str:
    return f"{100 * fact['value']:.1f}"


def _plain(fact: Mapping[str, float], digits: int) -> str:
    return f"{fact['value']:.{digits}f} ({fact['low']:.{digits}f} to {fact['high']:.{digits}f})"
