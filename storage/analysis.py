"""What a corpus holds and what was left out of it, as Parquet tables: its manifest's counts, and those of SQL.

Each is written whole or not at all, out of core; shares are of one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.artifacts import Artifact
from storage.disk import atomic_path
from storage.schemas import write_table

_TEXT, _COUNT, _SHARE = pa.string(), pa.int64(), pa.float64()

TABLES = {
    "sources": pa.schema(
        {
            "source": _TEXT,
            "read": _COUNT,  # documents, null for text generated with the tokens
            "kept": _COUNT,
            "characters": _COUNT,
            "tokens": _COUNT,  # null without a mix
            "epochs": _SHARE,
            "share": _SHARE,  # of the mix
        }
    ),
    "languages": pa.schema({"language": _TEXT, "documents": _COUNT, "share": _SHARE}),  # of what was read
    "drops": pa.schema({"step": _TEXT, "reason": _TEXT, "documents": _COUNT}),
    "examples": pa.schema({"step": _TEXT, "reason": _TEXT, "id": _TEXT, "detail": _TEXT, "text": _TEXT}),
    "duplicates": pa.schema({"id": _TEXT, "kept_id": _TEXT, "step": _TEXT, "similarity": pa.float32()}),
    "similarities": pa.schema({"similarity": pa.float32(), "documents": _COUNT}),
    "clusters": pa.schema({"kept_id": _TEXT, "size": _COUNT}),
    "changes": pa.schema({"change": _TEXT, "documents": _COUNT}),
    "toxicity": pa.schema({"score": _SHARE, "documents": _COUNT, "share": _SHARE}),
    "pronouns": pa.schema({"group": _TEXT, "documents": _COUNT, "share": _SHARE}),
    "identities": pa.schema(
        {"axis": _TEXT, "term": _TEXT, "documents": _COUNT, "share": _SHARE, "axis_share": _SHARE}
    ),
}
"""Name of a file and of an SQL view -> its columns."""
SQL = Path(__file__).parent / "sql" / "analysis"
Mix = Mapping[str, Mapping[str, Any]]


def analyse(
    corpus: Artifact, mix: Mix, examples: int, folder: Path, scratch: Path, memory_bytes: int = 512 << 20
) -> None:
    """Write TABLES of a corpus, with `examples` of each reason to drop; `mix` holds facts of tokens by source.

    DuckDB spills to `scratch` beyond `memory_bytes`.
    """
    import duckdb  # noqa: PLC0415  (it complains at exit where it was not used)

    for name, rows in counted(corpus.summary, mix).items():
        write_table(folder / f"{name}.parquet", rows, TABLES[name])
    with duckdb.connect(
        ":memory:", config={"memory_limit": f"{memory_bytes}B", "temp_directory": str(scratch)}
    ) as db:
        for view in ("documents", "dropped"):
            files = [str(path) for path in sorted(corpus.file(view).glob("*.parquet"))]
            db.read_parquet(files, filename=True, file_row_number=True).create_view(view)
        db.execute("set variable examples = $examples", {"examples": examples})
        for query in SQL.glob("*.sql"):
            with atomic_path(folder / f"{query.stem}.parquet") as temporary:
                db.sql(query.read_text()).write_parquet(str(temporary), compression="zstd")


def counted(summary: Mapping[str, Any], mix: Mix) -> dict[str, list[dict[str, Any]]]:
    """Return the tables that a corpus' manifest has counted already."""
    sources, languages = summary["sources"], summary["languages"]
    read = sum(languages.values())
    return {
        "sources": [
            {
                "source": name,
                **{column: sources.get(name, {}).get(column) for column in ("read", "kept", "characters")},
                **{column: mix.get(name, {}).get(column) for column in ("tokens", "epochs", "share")},
            }
            for name in dict.fromkeys([*sources, *mix])
        ],
        "languages": [
            {"language": name, "documents": count, "share": count / read} for name, count in languages.items()
        ],
        "drops": [
            {"step": drop["step"], "reason": drop["reason"], "documents": drop["count"]}
            for drop in summary["drops"]
        ],
        "changes": [{"change": name, "documents": count} for name, count in summary["changes"].items()],
    }
