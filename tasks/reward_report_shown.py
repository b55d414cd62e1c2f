"""The reward models' report in the shape of Llama 2's tables, as text: from the rows of its Parquet tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from llama2_core.config import GRADES
from tasks.report_tables import Table, interval
from tasks.reward_recipe import DOMAINS
from tasks.reward_report_tables import SAFETY_BINS, VARIANT, Rows
from tasks.tables import dialog_from_json

Measured = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""(model, set, part or measure) -> value, low, high, n."""
PAPER_ACCURACY = {
    ("safety", "safety"): (94.3, 76.3, 65.7, 55.3, 64.5),
    ("helpfulness", "safety"): (89.9, 73.2, 63.8, 54.5, 62.8),
    ("safety", "helpfulness"): (64.6, 57.5, 53.8, 52.2, 56.2),
    ("helpfulness", "helpfulness"): (80.7, 67.5, 60.9, 54.7, 63.2),
}
"""(model, set) -> percent right by grade, and of all. Llama 2 Table 8."""


def name(model: str) -> str:
    return model.removeprefix(VARIANT)


def percent(row: Mapping[str, Any]) -> str:
    return interval(dict(row)) if row["n"] else "–"


def with_n(row: Mapping[str, Any]) -> str:
    return f"{percent(row)}, n = {row['n']:,}" if row["n"] else "–"


def correlation(row: Mapping[str, Any]) -> str:
    return f"{signed(row)}, n = {row['n']:,}" if row["n"] else "–"


def signed(row: Mapping[str, Any]) -> str:
    return f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})" if row["n"] else "–"


def fitness_row(bar: Mapping[str, Any]) -> dict[str, str]:
    by = "lower end at least" if bar["rule"] == "least" else "within"
    found = f"{bar['value']:.3f} ({bar['low']:.3f} to {bar['high']:.3f})" if bar["n"] else "not measured"
    verdict = bar["verdict"] + (f": {bar['reason']}" if bar["reason"] else "")
    return {
        "bar": bar["bar"].replace("_", " "),
        "must be": f"{by} {bar['limit']:g}",
        "found": found,
        "n": f"{bar['n']:,}",
        "verdict": verdict,
    }


def model_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "model": name(row["model"]),
        "artifact": row["artifact"][:19],
        "parameters": f"{row['parameters']:,}",
        "pairs learned from": f"{row['pairs']:,}",
        "margin": row["margin"],
        "auxiliary weight": f"{row['auxiliary_weight']:g}",
        "trained": "adapters" if row["adapters"] else "all weights",
    }


def accuracy_table(accuracy: Measured, models: Iterable[str]) -> Table:
    """Return one row a model and set, the paper's below the current ones' (Llama 2 Tables 7 and 8)."""
    rows = []
    for model in models:
        for domain in DOMAINS:
            cells = {grade: percent(accuracy[model, domain, grade]) for grade in GRADES}
            rows.append(
                {"model": name(model), "set": domain, **cells, "all": with_n(accuracy[model, domain, "all"])}
            )
            if paper := PAPER_ACCURACY.get((model, domain)):
                printed = dict(zip((*GRADES, "all"), (f"{share:.1f}" for share in paper), strict=True))
                rows.append({"model": "Llama 2's", "set": domain, **printed})
    return rows


def safety_table(
    accuracy: Measured,
    measures: Measured,
    models: Iterable[str],
    threshold: str,
) -> Table:
    """Return what models make of the safety set: by bin, and of single answers (Llama 2 Table 29's columns)."""
    names = ("unsafe recall at 0.5", f"unsafe precision at {threshold}", f"unsafe recall at {threshold}")
    return [
        {
            "model": name(model),
            **{part: with_n(accuracy[model, "safety", part]) for part in SAFETY_BINS},
            **{measure: with_n(measures[model, "safety", measure]) for measure in names},
        }
        for model in models
    ]


def grade_table(calibration: Rows) -> Table:
    """Return how probable the current models find what annotators chose, and how often they agree, by grade."""
    return [
        {
            "model": name(row["model"]),
            "set": row["set"],
            "grade": row["bin"],
            "says": f"{100 * row['predicted']:.1f}",
            "is right": with_n(row),
        }
        for row in calibration
        if row["of"] == "grade" and row["model"] in DOMAINS
    ]


def length_table(measures: Measured, models: Iterable[str]) -> Table:
    return [
        {
            "model": name(model),
            "set": domain,
            "rank correlation": correlation(measures[model, domain, "length correlation"]),
        }
        for domain in DOMAINS
        for model in models
    ]


def disagreement_table(measures: Measured) -> Table:
    found = {domain: measures["helpfulness", domain, "disagreement with safety"] for domain in DOMAINS}
    return [{"set": domain, "prefer different answers": with_n(row)} for domain, row in found.items()]


def drift_table(measures: Measured, models: Iterable[str]) -> Table:
    return [
        {
            "since": name(model),
            "set": domain,
            "scores higher by, in deviations": signed(measures[model, domain, "scores since"]),
            "preferences changed": with_n(measures[model, domain, "preferences changed since"]),
        }
        for model in models
        for domain in DOMAINS
    ]


def ablation_table(
    models: Rows,
    accuracy: Measured,
    measures: Measured,
) -> Table:
    """Return one row a variant, in its own domain: Llama 2 Tables 28 and 29, Figure 6."""
    rows = []
    for row in models:
        if row["role"] == "variant":
            model, domain = row["model"], row["domain"]
            rows.append(
                {
                    "variant": name(model),
                    "pairs": f"{row['pairs']:,}",
                    "parameters": f"{row['parameters']:,}",
                    **{grade: percent(accuracy[model, domain, grade]) for grade in GRADES},
                    "all": with_n(accuracy[model, domain, "all"]),
                    "unsafe recall at 0.5": percent(measures[model, "safety", "unsafe recall at 0.5"]),
                    "scores near 0 or 1": percent(measures[model, domain, "extreme scores"]),
                    "calibration error": percent(measures[model, domain, "calibration error"]),
                }
            )
    return rows


def error(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = "\n".join(f"{turn.role}: {turn.content}" for turn in dialog_from_json(row["dialog"]))
    return {**row, "confidence": f"{100 * row['confidence']:.0f}", "dialog": turns}
