"""How two corpora differ: recipe, counts by source, and the fate and text of each document."""

from dataclasses import dataclass
from typing import Any

from storage.artifacts import Artifact, Store
from storage.corpora import Rows, corpora, rows


@dataclass(frozen=True)
class CorpusDiff:
    """What differs between corpora A and B; texts are compared by hash."""

    recipe: dict[str, tuple[Any, Any]]
    """Dotted path -> value in A and in B, None where there is none."""
    sources: Rows
    """source, kept_a, kept_b, dropped_a, dropped_b: of all sources, also where they agree."""
    documents: Rows
    """change, step_a, reason_a, step_b, reason_b (None where kept or absent), documents, five examples."""

    @property
    def equal(self) -> bool:
        same_counts = all(
            (row["kept_a"], row["dropped_a"]) == (row["kept_b"], row["dropped_b"]) for row in self.sources
        )
        return same_counts and not self.recipe and not self.documents


def corpus_diff(store: Store, a: Artifact, b: Artifact) -> CorpusDiff:
    """Compare two corpora of a store, out of core."""
    with corpora(store) as db:
        sources, documents = (
            rows(db, f"corpus_diff/{name}", a=a.digest, b=b.digest) for name in ("sources", "documents")
        )
    return CorpusDiff(recipe_diff(a.manifest.recipe, b.manifest.recipe), sources, documents)


def recipe_diff(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ by dotted path; items of a list of records count by their place."""
    flat_a, flat_b = flat(a), flat(b)
    paths = dict.fromkeys([*flat_a, *flat_b])
    pairs = {path: (flat_a.get(path), flat_b.get(path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested records under dotted paths; a list of plain values is a leaf."""
    match value:
        case {} if value:
            items = value.items()
        case [dict(), *_]:
            items = enumerate(value)
        case _:
            return {path: value}
    return {
        leaf: found for key, item in items for leaf, found in flat(item, f"{path}.{key}".lstrip(".")).items()
    }
