"""Batches of the log: how far they are, and frozen ones as rows that models learn from. Llama 2 section 3.2.1."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np

from storage.errors import StorageError
from storage.preference_index import SQL
from storage.schemas import COMPARISONS

Rows = list[dict[str, Any]]
ROWS_AT_ONCE = 10_000


@dataclass
class Frozen:
    """What became of a batch's annotations; counted while `rows` is read."""

    annotations: int = 0
    ties: int = 0
    """Questions whose annotators were equally divided."""
    excluded: int = 0
    """Chosen unsafe and the other safe."""
    held_out: int = 0
    grades: dict[str, int] = field(default_factory=dict)
    safety_bins: dict[str, int] = field(default_factory=dict)


def status(db: duckdb.DuckDBPyConnection) -> Rows:
    """Return how far every batch of the log and every import is."""
    return db.sql(_sql("status")).to_arrow_table().to_pylist()


def held_out_prompts(
    db: duckdb.DuckDBPyConnection, batch: str, draw: Callable[[int, str], float]
) -> set[str]:
    """Return the prompts of a frozen batch, and of those before it, whose comparisons are held out.

    A prompt is held out when its draw, in [0, 1), is below the share: those of lowest draw first, as many comparisons
    as the batch may hold out. One that an earlier batch had stays where it was. Raises StorageError for a batch
    that is not frozen.
    """
    held_out: set[str] = set()
    frozen = db.execute(
        "SELECT batch, held_out_share, most_held_out, seed FROM batches "
        "WHERE frozen_at IS NOT NULL ORDER BY frozen_at, batch"
    ).fetchall()
    if batch not in [name for name, *_ in frozen]:
        raise StorageError(f"Batch {batch} is not frozen: annotations may still come. Freeze it first.")
    for place, (name, share, most, seed) in enumerate(frozen):
        earlier = [row[0] for row in frozen[:place]]
        found = db.execute(_sql("batch_prompts"), {"batch": name, "earlier": earlier})
        room, candidates = most, []
        while rows := found.fetchmany(ROWS_AT_ONCE):
            for prompt, comparisons, seen in rows:
                if seen:
                    room -= comparisons * (prompt in held_out)
                elif (drawn := draw(seed, prompt)) < share:
                    candidates.append((drawn, prompt, comparisons))
        for _, prompt, comparisons in sorted(candidates):
            if comparisons <= room:
                held_out.add(prompt)
                room -= comparisons
        if name == batch:
            break
    return held_out


def frozen_rows(
    db: duckdb.DuckDBPyConnection, batch: str, held_out: set[str], counts: Frozen
) -> Iterator[dict[str, Any]]:
    """Yield a batch's comparisons, a question once, by id: without ties, and without chosen unsafe but other safe."""
    found = db.execute(_sql("frozen"), {"batch": batch})
    names = [column[0] for column in found.description or []]
    while rows := found.fetchmany(ROWS_AT_ONCE):
        for values in rows:
            row = dict(zip(names, values, strict=True))
            counts.annotations += row["annotations"]
            if row.pop("tie"):
                counts.ties += 1
                continue
            if row["safety_bin"] == "chosen unsafe, other safe":
                counts.excluded += 1
                continue
            row["held_out"] = row["prompt_id"] in held_out
            counts.held_out += row["held_out"]
            for name, tally in ((row["grade"], counts.grades), (row["safety_bin"], counts.safety_bins)):
                if name:
                    tally[name] = tally.get(name, 0) + 1
            yield {name: row[name] for name in COMPARISONS.names}


def rating_counts(db: duckdb.DuckDBPyConnection, batch: str, safety: bool) -> np.ndarray:
    """Return how many annotators gave each question, of those asked more than once, each of the eight signed grades."""
    found = db.execute(
        "SELECT dense_rank() OVER (ORDER BY question) - 1, category - 1, r FROM log.repeated "
        "WHERE batch = ? AND safety = ?",
        [batch, safety],
    ).fetchnumpy()
    question, category, r = (np.asarray(column, dtype=np.int64) for column in found.values())
    counts = np.zeros((question.max(initial=-1) + 1, 8), dtype=np.int64)
    counts[question, category] = r
    return counts


def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text()
