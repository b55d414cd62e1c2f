"""The report's tables in the shape of the paper's."""

from typing import Any

from llama2_core.config import GRADES
from llama2_core.evaluation.statistics import proportion

Table = list[dict[str, str]]

SAFETY_BINS = {
    "chosen safe, other unsafe": "18",
    "both safe": "47",
    "both unsafe": "35",
    "chosen unsafe, other safe": "left out",
}
"""Share in percent of Llama 2's safety comparisons. Section 3.2.1."""


def accuracy_table(accuracy: dict[str, dict[str, Any]]) -> Table:
    """Return one row a reward model and domain: right answers by grade, in percent (Llama 2 Table 8)."""
    rows = []
    for model, domains in accuracy.items():
        for domain, grades in domains.items():
            cells = {grade: share(grades[grade]["right"], grades[grade]["n"]) for grade in GRADES}
            right, n = grades["all"]["right"], grades["all"]["n"]
            total = f"{interval(proportion(right, n).as_dict())}, n = {n}" if n else "–"
            rows.append({"model": model, "held-out comparisons": domain, **cells, "all": total})
    return rows


def grade_table(comparisons: dict[str, dict[str, Any]]) -> Table:
    """Return one row a batch: how often the annotator gave each grade, in percent."""
    return [
        {
            "batch": batch,
            "comparisons": f"{facts['comparisons']:,}",
            **{grade: share(facts["grades"][grade], facts["comparisons"]) for grade in GRADES},
            "equal or undecided": f"{facts['equal_or_undecided']:,}",
        }
        for batch, facts in comparisons.items()
    ]


def safety_table(comparisons: dict[str, dict[str, Any]]) -> Table:
    """Return one row a batch, and the paper's: which of two answers to an unsafe prompt were safe, in percent."""
    rows = []
    for batch, facts in comparisons.items():
        bins = facts["safety_bins"]
        rows.append(
            {"batch": batch, **{name: share(bins.get(name, 0), sum(bins.values())) for name in SAFETY_BINS}}
        )
    return [*rows, {"batch": "Llama 2", **SAFETY_BINS}]


def share(count: int, n: int) -> str:
    return f"{100 * count / n:.1f} ({count} of {n})" if n else "–"


def interval(fact: dict[str, float]) -> str:
    return f"{100 * fact['value']:.1f} ({100 * fact['low']:.1f} to {100 * fact['high']:.1f})"
