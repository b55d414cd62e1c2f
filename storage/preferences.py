"""SQL over the store and the log of annotations: an in-memory DuckDB with views on Parquet. It takes no lock."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage import arena_tables, reward_tables, safety_tables, schemas
from storage.analysis import TABLES
from storage.artifacts import Store
from storage.errors import StorageError
from storage.preference_index import attach

SQL = Path(__file__).parent / "sql"
VIEWS: dict[str, tuple[str, str, pa.Schema]] = {
    "comparisons": ("comparisons", "comparisons.parquet", schemas.COMPARISONS),
    "samples": ("samples", "samples.parquet", schemas.SAMPLES),
    "responses": ("evaluation", "responses.parquet", schemas.RESPONSES),
    "documents": ("corpus", "documents/*.parquet", schemas.DOCUMENTS),
    "dropped": ("corpus", "dropped/*.parquet", schemas.DROPPED),
    "quarantined": ("corpus", "quarantined.parquet", schemas.QUARANTINED),
    "prompts": ("dialogs", "prompts.parquet", schemas.PROMPTS),
    "demonstrations": ("dialogs", "demonstrations.parquet", schemas.DEMONSTRATIONS),
    "distilled": ("distilled", "distilled.parquet", safety_tables.DISTILLED),
    "answers": ("answers", "answers.parquet", safety_tables.ANSWERS),
    "replies": ("replies", "replies.parquet", arena_tables.REPLIES),
    "verdicts": ("verdicts", "verdicts.parquet", arena_tables.VERDICTS),
    "scores": ("scores", "scores.parquet", reward_tables.SCORES),
    **{name: ("card", f"analysis/{name}.parquet", schema) for name, schema in TABLES.items()},
    **{
        name: ("reward-report", f"analysis/{name}.parquet", schema)
        for name, schema in reward_tables.TABLES.items()
    },
}
"""View -> kind of artifact, its file, its columns."""
LOG_VIEWS = ("annotations", "skips", "batches", "texts", "preferences")


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database: a view a table, each row with its artifact's `digest`, `artifacts`, and the log's."""
    connection = duckdb.connect()
    artifacts = store.artifacts()
    for view, (kind, file, schema) in VIEWS.items():
        paths = [str(path) for a in artifacts if a.kind == kind for path in sorted(a.path.glob(file))]
        connection.register(f"no_{view}", schema.append(pa.field("digest", pa.string())).empty_table())
        rows = f"SELECT * FROM no_{view}"
        if paths:
            quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            rows += (
                " UNION ALL BY NAME "
                f"SELECT * EXCLUDE (filename), regexp_extract(filename, '.*/{kind}/([^/]+)/', 1) AS digest "
                f"FROM read_parquet([{quoted}], filename=true, union_by_name=true)"
            )
        connection.execute(f"CREATE VIEW {view} AS {rows}")
    connection.register("artifacts", _artifact_table(artifacts))
    attach(connection, preferences_folder(store))
    return connection


def preferences_folder(store: Store) -> Path:
    """Return where the log of a store's annotations is: beside it."""
    return store.root.parent / "preferences"


def query(store: Store, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query; return column names and rows. Raises StorageError with DuckDB's reason and the views."""
    connection = connect(store)
    try:
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()
    except duckdb.Error as error:
        views = ", ".join([*VIEWS, "artifacts", *LOG_VIEWS])
        raise StorageError(f"The query failed: {error}\nViews: {views}.") from error


def named_query(name: str) -> str:
    """Return the text of storage/sql/NAME.sql."""
    path = SQL / f"{name}.sql"
    if not path.is_file():
        names = ", ".join(sorted(found.stem for found in SQL.glob("*.sql")))
        raise StorageError(f"There is no saved query {name!r}. There are: {names}.")
    return path.read_text()


def _artifact_table(artifacts: list) -> pa.Table:
    rows = [
        {
            "kind": a.kind,
            "digest": a.digest,
            "created_at": a.manifest.created_at,
            "wall_seconds": a.manifest.wall_seconds,
            "manifest": a.manifest.model_dump_json(),
        }
        for a in artifacts
    ]
    columns = dict.fromkeys(("kind", "digest", "created_at", "wall_seconds", "manifest"), pa.string())
    columns["wall_seconds"] = pa.float64()
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))
