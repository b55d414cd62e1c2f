"""The reward models' report as tables, from their scores: what `reward_report_page` shows and DuckDB reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from llama2_core.config import GRADES
from llama2_core.evaluation import reward_models as judge
from llama2_core.evaluation.statistics import Estimate, proportion
from tasks.reward_recipe import BARS, DOMAINS, FitnessRecipe, RewardReportRecipe

Rows = list[dict[str, Any]]
SAFETY_BINS = ("chosen safe, other unsafe", "both safe", "both unsafe")
COLUMNS = {
    **dict.fromkeys(("kind", "grade", "safety_bin"), str),
    **dict.fromkeys(("chosen_score", "rejected_score", "chosen_tokens", "rejected_tokens"), float),
    **dict.fromkeys(("chosen_safe", "rejected_safe"), float),  # NaN where nobody said
}
EXTREME = 0.05
"""Scores nearer to 0 or 1 than this are counted: large margins split scores into two peaks (Llama 2 Figure 27)."""
EARLIER, VARIANT = "earlier ", "variant "
"""How the roles of models that are no current ones begin."""


@dataclass(frozen=True)
class Scored:
    """One model's scores of the held-out pairs of one set."""

    keys: list[tuple[str, str]]
    columns: dict[str, np.ndarray]

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    @property
    def margins(self) -> np.ndarray:
        return self["chosen_score"] - self["rejected_score"]

    @property
    def longer(self) -> np.ndarray:
        """By how many tokens the chosen answer is the longer one."""
        return self["chosen_tokens"] - self["rejected_tokens"]

    def answers(self, column: str) -> np.ndarray:
        """Return what is known of all chosen, then of all rejected answers."""
        return np.concatenate([self[f"chosen_{column}"], self[f"rejected_{column}"]])

    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the score, and whether it is safe, of every answer of which somebody said so."""
        safe = self.answers("safe")
        said = ~np.isnan(safe)
        return self.answers("score")[said], safe[said].astype(bool)

    def shared(self, other: "Scored") -> tuple["Scored", "Scored"]:
        """Return both, of the pairs that both have, in one order."""
        places = {key: place for place, key in enumerate(other.keys)}
        mine = [place for place, key in enumerate(self.keys) if key in places]
        return self.take(mine), other.take([places[self.keys[place]] for place in mine])

    def take(self, places: Sequence[int]) -> "Scored":
        picked = np.array(places, dtype=int)
        columns = {name: values[picked] for name, values in self.columns.items()}
        return Scored([self.keys[place] for place in places], columns)


Scores = Mapping[tuple[str, str], Scored]
"""(model, set) -> its scores; a set without held-out pairs is there, empty."""


def read_scores(rows: Rows) -> dict[tuple[str, str], Scored]:
    """Return stored scores by model and set, models in stored order."""
    found = {}
    for model, own in groupby(rows, key=lambda row: row["model"]):
        of_model = list(own)
        for name in DOMAINS:
            part = [row for row in of_model if row["set"] == name]
            keys = [(row["batch"], row["id"]) for row in part]
            found[model, name] = Scored(
                keys,
                {
                    column: np.array([row[column] for row in part], dtype=dtype)
                    for column, dtype in COLUMNS.items()
                },
            )
    return found


def accuracy_rows(scores: Scores) -> Rows:
    """Return accuracy by model, set and part: all, each grade, each safety bin (Llama 2 Tables 7, 8, 29)."""
    rows = []
    for (model, name), scored in scores.items():
        parts = {"all": np.ones(len(scored.keys), dtype=bool)}
        parts |= {grade: scored["grade"] == grade for grade in GRADES}
        if name == "safety":
            parts |= {safety_bin: scored["safety_bin"] == safety_bin for safety_bin in SAFETY_BINS}
        for part, mask in parts.items():
            rows.append(
                {"model": model, "set": name, "part": part, **judge.accuracy(scored.margins[mask]).as_dict()}
            )
    return rows


def calibration_rows(scores: Scores, bins: int) -> Rows:
    """Return how sure a model is and how often it is right, by bin and by grade; of single safety scores too."""
    rows = []
    for (model, name), scored in scores.items():
        right = scored.margins > 0
        curves = {"preference": judge.calibration(judge.sigmoid(abs(scored.margins)), right, bins, 0.5)}
        if name == "safety" and domain_of(model) == "safety":
            answers, safe = scored.labelled()
            curves["safe"] = judge.calibration(judge.sigmoid(answers), safe, bins)
        for of, curve in curves.items():
            for each in curve:
                label = f"{each.low:.2f} to {each.high:.2f}"
                told = {"model": model, "set": name, "of": of, "bin": label, "predicted": each.predicted}
                rows.append(told | each.observed.as_dict())
        for grade in GRADES:
            margins = scored.margins[scored["grade"] == grade]
            if len(margins):
                told = {"model": model, "set": name, "of": "grade", "bin": grade}
                predicted = float(judge.sigmoid(margins).mean())
                rows.append(told | {"predicted": predicted} | judge.accuracy(margins).as_dict())
    return rows


def measure_rows(scores: Scores, recipe: RewardReportRecipe) -> Rows:
    """Return all other measures, one a row."""
    rows: Rows = []

    def tell(model: str, name: str, measure: str, estimate: Estimate) -> None:
        rows.append({"model": model, "set": name, "measure": measure, **estimate.as_dict()})

    for (model, name), scored in scores.items():
        confidence, right = judge.sigmoid(abs(scored.margins)), scored.margins > 0
        probabilities = judge.sigmoid(scored.answers("score"))
        extreme = int((np.minimum(probabilities, 1 - probabilities) < EXTREME).sum())
        tell(model, name, "calibration error", judge.calibration_error(confidence, right, recipe.bins, 0.5))
        tell(model, name, "length correlation", judge.length_correlation(scored.margins, scored.longer))
        tell(model, name, "extreme scores", proportion(extreme, len(probabilities)))
        if name == "safety":
            answers, safe = scored.labelled()
            threshold = recipe.safety_threshold
            tell(model, name, "unsafe recall at 0.5", judge.unsafe_recall(answers, safe, 0.5))
            tell(
                model, name, f"unsafe recall at {threshold:g}", judge.unsafe_recall(answers, safe, threshold)
            )
            tell(
                model, name, f"unsafe precision at {threshold:g}", judge.unsafe_precision(answers, safe, threshold)
            )  # fmt: skip
    for name in DOMAINS:
        helpful, safe = scores["helpfulness", name].shared(scores["safety", name])
        own, strength = scores[name, name], {grade: len(GRADES) - at for at, grade in enumerate(GRADES)}
        grades = np.array([strength.get(grade, 1) for grade in own["grade"]])  # an import may have none
        theirs = judge.length_correlation(grades, own.longer)
        tell("annotators", name, "length correlation", theirs)
        bias = judge.difference(judge.length_correlation(own.margins, own.longer), theirs)
        tell(name, name, "length bias", bias)
        tell(
            "helpfulness", name, "disagreement with safety", judge.disagreement(helpful.margins, safe.margins)
        )
    for model, name in scores:
        if model.startswith(EARLIER):
            now, before = scores[domain_of(model), name].shared(scores[model, name])
            flipped = judge.disagreement(now.margins, before.margins)
            tell(model, name, "scores since", judge.drift(now.answers("score"), before.answers("score")))
            tell(model, name, "preferences changed since", flipped)
    return rows


def domain_of(model: str) -> str:
    """Return the domain of a model by its role."""
    words = model.split()
    return next(word for word in words if word in DOMAINS)


def error_rows(scores: Scores, count: int, texts: Mapping[tuple[str, str], Mapping[str, Any]]) -> Rows:
    """Return the current models' most confident errors in their own domain, with what was compared."""
    rows = []
    for domain in DOMAINS:
        scored = scores[domain, domain]
        for place in judge.worst_errors(scored.margins, count):
            row = texts[scored.keys[place]]
            rows.append(
                {
                    "model": domain,
                    "set": domain,
                    **{name: row[name] for name in ("id", "grade", "dialog", "chosen", "rejected")},
                    "confidence": float(judge.sigmoid(-scored.margins[place])),
                }
            )
    return rows


def fitness_rows(accuracy: Rows, measures: Rows, fitness: FitnessRecipe) -> Rows:
    """Return one row a bar: its limit, what was found, and whether it is passed, failed or overridden.

    What was not measured fails, unless the bar lets everything pass.
    """
    found = {(row["model"], row["set"], row["part"]): row for row in accuracy}
    found |= {(row["model"], row["set"], row["measure"]): row for row in measures}
    rows = []
    for bar in BARS:
        domain, _, name = bar.partition("_")
        part, rule, limit = {
            "accuracy": ("all", "least", fitness.least_accuracy),
            "clear_accuracy": (GRADES[0], "least", fitness.least_clear_accuracy),
            "unsafe_recall": ("unsafe recall at 0.5", "least", fitness.least_unsafe_recall),
            "calibration_error": ("calibration error", "most", fitness.most_calibration_error),
            "length_correlation": ("length correlation", "most", fitness.most_length_correlation),
            "length_bias": ("length bias", "most", fitness.most_length_bias),
        }[name]
        estimate = {key: found[domain, domain, part][key] for key in ("value", "low", "high", "n")}
        if rule == "least":
            passed = limit == 0 or (estimate["n"] > 0 and estimate["low"] >= limit)
        else:
            passed = limit == 1 or (estimate["n"] > 0 and abs(estimate["value"]) <= limit)
        reason = fitness.overrides.get(bar, "")
        verdict = "passed" if passed else "overridden" if reason else "failed"
        rows.append(
            {"bar": bar, "rule": rule, "limit": limit, **estimate, "verdict": verdict, "reason": reason}
        )
    return rows
