"""What is known of a model, read from the store: where it comes from, what that cost, how it does, on which data."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llama2_core.config import ModelConfig, Record
from llama2_core.errors import ConfigError
from llama2_core.footprint import parameter_count
from storage.artifacts import Artifact, Store
from storage.benchmark_tables import BENCHMARK_SCORES, CONTAMINATION
from storage.schemas import read_table
from tasks.data_card_page import DataCard, read_card
from tasks.jobs import FORMAT_VERSIONS
from tasks.recipes import DataCardRecipe
from tasks.suite_tables import Row

CLEAN, FOUND, HELPED, UNKNOWN = "", "†", "‡", "?"
"""Marks of contamination: nothing found, samples found in the training tokens, these helped, not searched."""


class Conditions(Record):
    """How questions were asked; only scores under the same conditions stand in one table."""

    limit: int | None
    bos: bool
    chat: bool
    judge: str
    fewshot_seed: int
    seed: int
    harness: str

    @property
    def words(self) -> str:
        limit = f"The first {self.limit} questions of each task" if self.limit else "All questions"
        form = "in the chat template" if self.chat else "as plain text"
        judge = f", judged by {self.judge}" if self.judge else ""
        bos = "after BOS" if self.bos else "without BOS"
        seeds = f"seed {self.seed}, examples' seed {self.fewshot_seed}"
        return f"{limit}, {form}, {bos}{judge}; lm-evaluation-harness {self.harness}; {seeds}"


@dataclass(frozen=True)
class Known:
    """A model and what the store has on it."""

    label: str
    config: ModelConfig
    artifact: Artifact | None = None
    """None for a model from outside that was never brought into the store."""
    lineage: Sequence[Artifact] = ()
    """Parents before children, the model last."""
    gone: Sequence[str] = ()
    """Ancestors that are not in the store."""
    found: dict[str, Artifact] = field(default_factory=dict)
    """Role -> artifact about the model: benchmarks, contaminations, its examination, its data card."""

    @property
    def parameters(self) -> int:
        return parameter_count(self.config)

    @property
    def outside(self) -> bool:
        """Whether it, or what it began from, was trained elsewhere."""
        return not self.lineage or any(
            "content" in a.manifest.recipe for a in self.lineage if a.kind == "base"
        )

    @property
    def tokens(self) -> int:
        """That it was pretrained on, by this pipeline."""
        return sum(a.summary.get("tokens", 0) for a in self.lineage if a.kind == "base")

    def total(self, name: str) -> float:
        """Return what its whole lineage took, by a number's name in manifests."""
        return sum(getattr(artifact.manifest, name) for artifact in self.lineage)

    @property
    def energy_methods(self) -> list[str]:
        return sorted({a.manifest.energy_method for a in self.lineage if a.manifest.energy_kwh})

    @cached_property
    def scores(self) -> dict[Conditions, list[Row]]:
        """Scores with marks of contamination; of what was asked twice the newer."""
        scores: dict[Conditions, dict[tuple, Row]] = {}
        for evaluation in self._all("benchmarks"):
            searches = [a for a in self._all("contamination") if _searches(a, evaluation)]
            found = read_table(searches[-1].file("contamination.parquet"), CONTAMINATION) if searches else []
            recipe = evaluation.manifest.recipe
            conditions = Conditions(**{name: recipe[name] for name in Conditions.model_fields})
            kept = scores.setdefault(conditions, {})
            for row in read_table(evaluation.file("scores.parquet"), BENCHMARK_SCORES):
                key = tuple(row[name] for name in ("task", "metric", "filter", "shots", "prompt_hash"))
                kept[key] = {**row, "mark": mark_of(row, found)}
        return {conditions: list(rows.values()) for conditions, rows in scores.items()}

    @property
    def searches(self) -> list[list[Row]]:
        """What each search for contamination found, the rows of CONTAMINATION."""
        return [
            read_table(a.file("contamination.parquet"), CONTAMINATION) for a in self._all("contamination")
        ]

    @property
    def examination(self) -> dict[str, Any]:
        """Held-out prompts of the starter data: suite -> estimate."""
        found = self.found["examination"].summary if "examination" in self.found else {}
        return {suite: fact for suite, fact in found.items() if isinstance(fact, dict)}

    @cached_property
    def data(self) -> DataCard | None:
        card = self.found.get("data card")
        parents = {a.full_name: a for a in self.lineage}
        corpus = parents.get(card.manifest.parents["corpus"]) if card else None
        if card is None or corpus is None:
            return None
        tokens = parents.get(card.manifest.parents.get("tokens", ""))
        return read_card(corpus, tokens, card.file("analysis"), DataCardRecipe())

    @property
    def annotators(self) -> set[str]:
        """Kinds of annotators whose preferences are in it."""
        recipes = (a.manifest.recipe for a in self.lineage if a.kind == "comparisons")
        return {recipe.get("annotator", {}).get("kind", "unknown") for recipe in recipes}

    def _all(self, kind: str) -> list[Artifact]:
        return [artifact for role, artifact in self.found.items() if role.startswith(f"{kind} ")]


def known_of(label: str, model: Artifact, store: Store) -> Known:
    """Gather a model's facts. Raises ConfigError for an artifact that is no language model."""
    if model.kind == "reward" or "config.json" not in model.manifest.files:
        raise ConfigError(
            f"{label}: {model.name} is no language model; a card is about one, such as base, sft or ppo "
            "(reward models have a report of their own, a corpus has `llama2 data card`)"
        )
    lineage = [*store.lineage(model, whole=False), model]
    names = {artifact.full_name for artifact in lineage}
    gone = {name for artifact in lineage for name in artifact.manifest.parents.values()} - names
    config = ModelConfig.model_validate_json(model.file("config.json").read_bytes())
    return Known(label, config, model, lineage, sorted(gone), _about(model, names, store))


def _about(model: Artifact, lineage: set[str], store: Store) -> dict[str, Artifact]:
    now = [a for a in store.artifacts() if a.manifest.format_version == FORMAT_VERSIONS.get(a.kind)]

    def made(kind: str, role: str, of: Collection[str]) -> list[Artifact]:
        return [a for a in now if a.kind == kind and a.manifest.parents.get(role, "") in of]

    asked = made("benchmarks", "model", [model.full_name])
    searches = made("contamination", "benchmarks", [artifact.full_name for artifact in asked])
    found = {f"{a.kind} {number}": a for group in (asked, searches) for number, a in enumerate(group, 1)}
    examined = made("evaluation", "model", [model.full_name])
    cards = made("card", "corpus", lineage)
    about = {"examination": examined, "data card": cards}
    return found | {role: artifacts[-1] for role, artifacts in about.items() if artifacts}


def _searches(search: Artifact, evaluation: Artifact) -> bool:
    return search.manifest.parents["benchmarks"] == evaluation.full_name


def mark_of(score: Row, found: Sequence[Row]) -> str:
    """Return the mark of a score, from the search of its tasks' samples in the training tokens."""
    rows = [row for row in found if row["task"] in score["members"]]
    if any(row["helped"] and row["metric"] == score["metric"] for row in rows):
        return HELPED
    shortest = min((row["length"] for row in rows), default=0)
    if any(row["n"] for row in rows if row["length"] == shortest and row["subset"] == "not clean"):
        return FOUND
    return CLEAN if {row["task"] for row in rows} == set(score["members"]) else UNKNOWN
