"""Which documents of a corpus repeat earlier ones, found out of core by DuckDB on Parquet signatures.

Of documents alike the first stays. Exact ones share a fingerprint. Near ones share a band of MinHash minima, which
makes them candidates, and nearly enough minima, which estimates their Jaccard similarity to 0.035; what decides is
the similarity of their sketches: exact where both have at most SKETCH shingles together, else within 0.0125.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.disk import atomic_path

SIGNATURES = pa.schema(
    {
        "row": pa.int64(),  # of the group's documents
        "id": pa.string(),
        "fingerprint": pa.string(),
        "bands": pa.list_(pa.uint64()),
        "minima": pa.binary(),  # uint32 [permutations]
        "sketch": pa.binary(),  # uint32, the SKETCH smallest hashes of its shingles
        "host": pa.string(),
        "personal": pa.int32(),  # data found in it
    }
)
DUPLICATES = pa.schema(
    {
        "group": pa.int32(),
        "row": pa.int64(),
        "step": pa.string(),
        "kept_id": pa.string(),  # null where a site goes, as the similarity
        "similarity": pa.float32(),
    }
)
Similarity = Callable[[pa.Array, pa.Array], np.ndarray]
SQL = Path(__file__).parent / "sql" / "corpus"
NO_SITE = (1 << 62, 0.0)
BATCH, PAIRS = 20_000, 2_048
"""Rows and pairs held at once; a pair has up to 8 KiB of sketches."""
SKETCH = 1_024
SLACK = 0.1
"""A pair goes on being a candidate this far below the threshold: 3 standard errors of its minima."""
NEIGHBOURS = 16
"""Of a bucket, a document is compared with the first and so many before it: a bucket of thousands stays linear."""


def find_duplicates(
    groups: Sequence[Path],
    threshold: float,
    scratch: Path,
    destination: Path,
    personal_sites: tuple[int, float] = NO_SITE,
    memory_bytes: int = 512 << 20,
) -> None:
    """Write DUPLICATES of the groups' SIGNATURES files, in the order of the groups and of their rows.

    First go the documents of hosts with as many documents and, on average, as many personal data as
    `personal_sites` says; they repeat nothing and nothing repeats them.
    A document is near an earlier one from Jaccard similarity `threshold` on, unless that one goes itself: the most
    similar is named, of equals the first. DuckDB spills to `scratch` beyond `memory_bytes`; beside it a byte a
    document is held.
    """
    import duckdb  # noqa: PLC0415  (it complains at exit where it was not used)

    scratch.mkdir(parents=True, exist_ok=True)
    counts = [pq.read_metadata(path).num_rows for path in groups]
    with duckdb.connect(":memory:") as db:
        db.execute(f"set memory_limit = '{memory_bytes}B'")
        db.execute(f"set temp_directory = '{scratch}'")
        db.execute("set preserve_insertion_order = false")
        files, starts = [str(path) for path in groups], [0, *accumulate(counts)][:-1]
        db.register("starts", pa.table({"group": range(len(files)), "file": files, "start": starts}))
        db.execute("create table offsets as from starts")
        db.read_parquet(files, filename=True).create_view("signatures")
        variables = {
            "neighbours": NEIGHBOURS,
            "site_documents": personal_sites[0],
            "site_data": personal_sites[1],
        }
        for name, value in variables.items():
            db.execute(f"set variable {name} = {value}")
        for name in ("duplicates", "candidates"):
            db.execute((SQL / f"{name}.sql").read_text())
        _narrow(db, "candidates", "minima", equal_minima, threshold - SLACK, "likely")
        _narrow(db, "likely", "sketch", jaccard, threshold, "near")
        _choose(db, sum(counts))
        with atomic_path(destination) as temporary:
            _write(db, temporary)


def _narrow(db: Any, pairs: str, column: str, similarity: Similarity, least: float, kept: str) -> None:
    """Make table `kept` of the pairs whose documents are so similar by a column."""
    db.execute(f"create table {kept} (later bigint, earlier bigint, similarity float)")
    both = f"""
        select later, earlier, l.{column}, e.{column} from {pairs}
        join documents l on l.ordinal = later join documents e on e.ordinal = earlier
    """
    for batch in db.cursor().sql(both).to_arrow_reader(PAIRS):
        later, earlier, *sides = batch.columns
        scores = similarity(*sides).astype(np.float32)
        scored = pa.table([later, earlier, scores], ["later", "earlier", "similarity"])
        db.register("enough", scored.filter(pa.array(scores >= np.float32(least))))
        db.execute(f"insert into {kept} from enough")


def equal_minima(later: pa.Array, earlier: pa.Array) -> np.ndarray:
    """Return the share of minima that are equal, float [pairs]."""
    a, b = (_numbers(column).reshape(len(column), -1) for column in (later, earlier))
    return (a == b).mean(1)


def jaccard(later: pa.Array, earlier: pa.Array) -> np.ndarray:
    """Return how many of the SKETCH smallest hashes of either sketch are in both, as a share, float [pairs]."""
    keys = []
    for column in (later, earlier):
        lengths = [len(sketch) // 4 for sketch in column.to_pylist()]
        pairs = np.repeat(np.arange(len(column), dtype=np.uint64), lengths)
        keys.append(pairs << np.uint64(32) | _numbers(column))
    distinct, times = np.unique(np.concatenate(keys), return_counts=True)
    pair = (distinct >> np.uint64(32)).astype(np.int64)
    smallest = np.arange(len(pair)) - np.searchsorted(pair, pair) < SKETCH
    either, both = (
        np.bincount(pair[chosen], minlength=len(later)) for chosen in (smallest, smallest & (times == 2))
    )
    return both / either


def _numbers(column: pa.Array) -> np.ndarray:
    return np.frombuffer(b"".join(column.to_pylist()), np.uint32)


def _choose(db: Any, documents: int) -> None:
    """Add to table `gone`, in the order of the documents, those near one that stays."""
    gone = np.zeros(documents, dtype=bool)
    pairs = db.cursor().sql("from near order by later, similarity desc, earlier").to_arrow_reader(BATCH)
    for batch in pairs:
        chosen = []
        for later, earlier, similarity in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if not gone[later] and not gone[earlier]:
                gone[later] = True
                chosen.append((later, earlier, similarity))
        if chosen:
            columns = [pa.array(column) for column in zip(*chosen, strict=True)]
            db.register("chosen", pa.table(columns, ["ordinal", "kept", "similarity"]))
            db.execute("insert into gone select ordinal, kept, 'near duplicates', similarity from chosen")


def _write(db: Any, path: Path) -> None:
    found = db.sql((SQL / "gone.sql").read_text()).to_arrow_reader(BATCH)
    with pq.ParquetWriter(path, DUPLICATES, compression="zstd") as writer:
        for batch in found:
            writer.write_table(pa.Table.from_batches([batch]).cast(DUPLICATES))
