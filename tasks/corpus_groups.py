"""A group of a corpus: what one worker does, first alone, then knowing which documents repeat others.

What it writes depends on the group and the recipe only: neither the number of workers nor a restart changes a byte.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow.parquet as pq
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] (compiled, no stubs)

from llama2_core.data.dedup import fingerprint, shingles
from llama2_core.data.documents import Document, Drop, Verdict
from storage.disk import atomic_write
from storage.duplicates import SIGNATURES
from storage.schemas import DOCUMENTS, DROPPED, QUARANTINED, TableWriter, read_rows
from storage.sketches import SKETCH
from storage.sources.documents import Quarantined
from tasks.steps.personal import EVERYTHING
from tasks.steps.urls import host_of

PERMUTATIONS, BANDS = 128, 32
"""Of 4 minima a band: a pair of similarity 0.8 shares none with (1 - 0.8**4)**32 = 5e-8, one of 0.5 with 13%."""
FILTERED = {
    "documents": DOCUMENTS,
    "signatures": SIGNATURES,
    "dropped": DROPPED,
    "quarantined": QUARANTINED,
}
COUNTS = "counts.json"
PERSONAL = frozenset(EVERYTHING.kinds)

Step = tuple[str, Callable[[Document], Verdict]]


class Repeat(NamedTuple):
    """Why a document goes, and the other that stays for it, unless all of its site goes."""

    step: str
    kept_id: str | None
    similarity: float | None


def filter_group(
    source: str, items: Iterable[Document | Quarantined], steps: Sequence[Step], folder: Path
) -> None:
    """Write what the steps keep and drop, and what could not be read; counts.json comes last."""
    languages: Counter[str] = Counter()
    with ExitStack() as stack:
        kept, signatures, dropped, quarantined = (
            stack.enter_context(TableWriter(folder / f"{name}.parquet", schema))
            for name, schema in FILTERED.items()
        )
        for document in items:
            if isinstance(document, Quarantined):
                quarantined.add({"source": source, **asdict(document)})
                continue
            languages[document.language] += 1
            step, verdict = judge(document, steps)
            if isinstance(verdict, Drop):
                dropped.add(dropped_row(document, step, verdict))
            else:
                signatures.add(signature(kept.count, verdict))
                kept.add(asdict(verdict))
    atomic_write(folder / COUNTS, json.dumps(languages).encode())


def finish_group(
    folder: Path, repeats: Mapping[int, Repeat], steps: Sequence[Step], documents: Path, dropped: Path
) -> None:
    """Write all that was dropped, then the documents that repeat no other, as the last steps leave them."""
    with TableWriter(documents, DOCUMENTS) as kept, TableWriter(dropped, DROPPED) as gone:
        for row in read_rows(folder / "dropped.parquet", DROPPED):
            gone.add(row)
        for number, row in enumerate(read_rows(folder / "documents.parquet", DOCUMENTS)):
            document, repeat = Document(**row), repeats.get(number)
            step, verdict = (repeat.step, as_drop(document, repeat)) if repeat else judge(document, steps)
            if isinstance(verdict, Drop):
                gone.add(dropped_row(document, step, verdict, repeat))
            else:
                kept.add(asdict(verdict))


def judge(document: Document, steps: Sequence[Step]) -> tuple[str, Verdict]:
    """Return the step that drops the document and its answer, or the document as the steps leave it."""
    for name, step in steps:
        verdict = step(document)
        if isinstance(verdict, Drop):
            return name, verdict
        document = verdict
    return "", document


def as_drop(document: Document, repeat: Repeat) -> Drop:
    if repeat.step == "personal sites":
        return Drop("site with much personal data", host_of(document.url))
    if repeat.step == "near duplicates":
        return Drop("nearly the same text", f"{repeat.similarity:.2f} of {repeat.kept_id}")
    return Drop("same text" if repeat.step == "exact duplicates" else "same id", f"of {repeat.kept_id}")


def dropped_row(document: Document, step: str, drop: Drop, repeat: Repeat | None = None) -> dict[str, Any]:
    return {
        "id": document.id,
        "source": document.source,
        "text": document.text,
        "step": step,
        "reason": drop.reason,
        "detail": drop.detail,
        "kept_id": repeat and repeat.kept_id,
        "similarity": repeat and repeat.similarity,
    }


def signature(row: int, document: Document) -> dict[str, Any]:
    """Return the SIGNATURES row of a document: its fingerprint, MinHash minima and bands, and sketch."""
    grams = shingles(document.text)
    minhash = RMinHash(PERMUTATIONS, seed=0)
    minhash.update(grams)
    hashes = np.fromiter(map(crc32, map(str.encode, grams)), np.uint32)
    minima = np.array(minhash.digest(), dtype=np.uint32)
    return {
        "row": row,
        "id": document.id,
        "fingerprint": fingerprint(document.text),
        "bands": band_keys(minima).tolist(),
        "minima": minima.tobytes(),
        "sketch": np.unique(hashes)[:SKETCH].tobytes(),
        "host": host_of(document.url),
        "personal": sum(change in PERSONAL for change in document.changes),
    }


def band_keys(minima: np.ndarray) -> np.ndarray:
    """Return a hash of each band with its number, uint64 [BANDS]."""
    keys = np.arange(1, BANDS + 1, dtype=np.uint64)
    for column in minima.reshape(BANDS, -1).T.astype(np.uint64):
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def read_repeats(duplicates: Path, group: int) -> dict[int, Repeat]:
    """Return which of a group's filtered documents go, by row."""
    found = pq.read_table(duplicates, filters=[("group", "==", group)])
    rows = found.select(["row", "step", "kept_id", "similarity"]).to_pylist()
    return {row["row"]: Repeat(row["step"], row["kept_id"], row["similarity"]) for row in rows}
