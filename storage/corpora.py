"""What became of the documents of corpora, asked by SQL: of their texts only beginnings leave DuckDB."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from storage.artifacts import Artifact, Store
from storage.errors import ArtifactNotFound, StorageError
from storage.preferences import SQL, connect

MEMORY_BYTES = 512 << 20
BEGINNING_CHARACTERS = 500

Rows = list[dict[str, Any]]


@contextmanager
def corpora(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the views of `preferences.connect`; beyond MEMORY_BYTES they spill to a temporary folder."""
    with tempfile.TemporaryDirectory() as spill, connect(store) as db:
        db.execute("set memory_limit = ?", [f"{MEMORY_BYTES}B"])
        db.execute("set temp_directory = ?", [spill])
        yield db


def rows(db: duckdb.DuckDBPyConnection, query: str, **parameters: object) -> Rows:
    """Run storage/sql/QUERY.sql; return a dict a row."""
    return db.sql((SQL / f"{query}.sql").read_text(), params=parameters).to_arrow_table().to_pylist()


def corpus_named(store: Store, name: str) -> Artifact:
    """Return the corpus meant by "corpus", "corpus/prefix" or "prefix". Raises ArtifactNotFound."""
    artifact = store.resolve(name)
    if artifact.kind != "corpus":
        raise ArtifactNotFound(
            f"{artifact.name} is no corpus. `llama2 artifacts list` shows those there are."
        )
    return artifact


def counts(store: Store, corpus: Artifact, source: str | None = None) -> dict[str, Rows]:
    """Return what became of the documents: "sources", "drops", "changes", and places "quarantined"."""
    chosen = _chosen(corpus, source)
    names = ("sources", "drops", "changes", "quarantined")
    with corpora(store) as db:
        return {name: rows(db, f"corpus_show/{name}", **chosen) for name in names}


def dropped_documents(store: Store, corpus: Artifact, rule: str, source: str | None, limit: int) -> Rows:
    """Return documents dropped by a step, or for a reason, whose name holds `rule`.

    Raises StorageError with the rules that dropped any when this one did not.
    """
    chosen = _chosen(corpus, source)
    with corpora(store) as db:
        found = rows(db, "corpus_show/dropped", **chosen, **_excerpt(limit), rule=rule)
        if not found:
            rules = [f"{row['step']}: {row['reason']}" for row in rows(db, "corpus_show/drops", **chosen)]
            raise StorageError(f"{corpus.name}: no document was dropped by {rule!r}. {_there_are(rules)}")
    return found


def kept_documents(
    store: Store, corpus: Artifact, change: str | None, source: str | None, limit: int
) -> Rows:
    """Return documents that stayed, or those of them that a change altered.

    Raises StorageError with the changes there are when this one altered none.
    """
    chosen = _chosen(corpus, source)
    with corpora(store) as db:
        found = rows(db, "corpus_show/kept", **chosen, **_excerpt(limit), change=change)
        if change is not None and not found:
            changes = [row["change"] for row in rows(db, "corpus_show/changes", **chosen)]
            raise StorageError(f"{corpus.name}: no document was changed by {change!r}. {_there_are(changes)}")
    return found


def _excerpt(limit: int) -> dict[str, int]:
    return {"limit": limit, "beginning": BEGINNING_CHARACTERS}


def _chosen(corpus: Artifact, source: str | None) -> dict[str, str | None]:
    if source is not None and source not in corpus.summary["sources"]:
        raise StorageError(
            f"{corpus.name}: no source is named {source!r}. {_there_are(corpus.summary['sources'])}"
        )
    return {"digest": corpus.digest, "source": source}


def _there_are(names: Collection[str]) -> str:
    return f"There are: {'; '.join(names)}." if names else "There are none."
