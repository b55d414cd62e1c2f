"""What became of a corpus's documents, counted by SQL on its files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from llama2_core.errors import DataError
from storage.duplicates import SQL

STEPS = (
    "address",
    "language",
    "quality",
    "personal data",
    "personal sites",
    "duplicate id",
    "exact duplicates",
    "near duplicates",
    "benchmarks",
)


def corpus_summary(directory: Path, sources: list[str], quarantined: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts for the manifest. Raises DataError, saying which step dropped what, when nothing is left."""
    found = {row.pop("source"): row for row in _rows(directory, "sources")}
    drops = _rows(directory, "drops")
    drops.sort(key=lambda drop: STEPS.index(drop["step"]))
    by_source = {name: found.get(name, {"read": 0, "kept": 0, "characters": 0}) for name in sources}
    total = {
        name: sum(counts[name] for counts in by_source.values()) for name in ("read", "kept", "characters")
    }
    if not total["read"]:
        places = "; ".join(f"{row['place']}: {row['detail']}" for row in quarantined[:3])
        raise DataError(f"no source holds a document: {places}. Give files that hold text.")
    if not total["kept"]:
        counts = "; ".join(f"{drop['step']} dropped {drop['count']} ({drop['reason']})" for drop in drops)
        cut = " `passage_words` of a source cuts long .txt files." if "too many words" in counts else ""
        raise DataError(
            f"no document is left of {total['read']}: {counts}. Relax those rules or add sources.{cut}"
        )
    repeats = Counter({drop["step"]: drop["count"] for drop in drops})
    return {
        "documents_read": total["read"],
        "documents_kept": total["kept"],
        "characters_kept": total["characters"],
        "languages": _sum(directory.glob("checkpoints/filtered/*/counts.json")),
        "drops": drops,
        "sources": by_source,
        "quarantined": len(quarantined),
        "changes": {row["change"]: row["count"] for row in _rows(directory, "changes")},
        "duplicates": {"exact": repeats["exact duplicates"], "near": repeats["near duplicates"]},
    }


def _rows(directory: Path, query: str) -> list[dict[str, Any]]:
    import duckdb  # noqa: PLC0415  (it complains at exit where it was not used)

    with duckdb.connect(":memory:") as db:
        for name in ("documents", "dropped"):
            files = db.read_parquet(f"{directory}/{name}/*.parquet", filename=True, file_row_number=True)
            files.create_view(name)
        return db.sql((SQL / f"{query}.sql").read_text()).to_arrow_table().to_pylist()


def _sum(files: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for file in sorted(files):
        total += Counter(json.loads(file.read_text()))
    return dict(total.most_common())
