"""Which documents of a corpus repeat earlier ones, found out of core by DuckDB on Parquet signatures.

Of documents alike the first stays. Exact ones share a fingerprint. Near ones share a band of MinHash minima, which
makes them candidates, and nearly enough minima, which estimates their Jaccard similarity to 0.035; what decides is
the similarity of their sketches: exact where both have at most SKETCH shingles together, else within 0.0125.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.disk import atomic_path
from storage.sketches import Numbers, Similarity, equal_minima, jaccard

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
SQL = Path(__file__).parent / "sql" / "corpus"
NO_SITE = (1 << 62, 0.0)
BATCH, PAIRS = 20_000, 2_048
"""Rows and pairs held at once; a pair has up to 8 KiB of sketches."""
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
    document is held, and 24 for each that is a candidate.
    """
    import duckdb  # noqa: PLC0415  (it complains at exit where it was not used)

    scratch.mkdir(parents=True, exist_ok=True)
    counts = [pq.read_metadata(path).num_rows for path in groups]
    with duckdb.connect(
        ":memory:", config={"memory_limit": f"{memory_bytes}B", "temp_directory": str(scratch)}
    ) as db:
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
        minima, sketches = (partial(Numbers, groups, column, scratch) for column in ("minima", "sketch"))
        _narrow(db, "candidates", minima, equal_minima, threshold - SLACK, "likely")
        _narrow(db, "likely", sketches, jaccard, threshold, "near")
        _choose(db, sum(counts))
        with atomic_path(destination) as temporary:
            _write(db, temporary)


def _narrow(
    db: Any, pairs: str, numbers: Callable[..., Numbers], similarity: Similarity, least: float, kept: str
) -> None:
    """Make table `kept` of the pairs whose documents' numbers are so similar."""
    db.execute(f"create table {kept} (later bigint, earlier bigint, similarity float)")
    query = f"select distinct unnest([later, earlier]) as ordinal from {pairs} order by ordinal"
    found = numbers(db.sql(query).fetchnumpy()["ordinal"])
    for batch in db.cursor().sql(f"select later, earlier from {pairs} order by later").to_arrow_reader(PAIRS):
        later, earlier = (column.to_numpy() for column in batch.columns)
        scores = similarity(found.of(later), found.of(earlier)).astype(np.float32)
        scored = pa.table([later, earlier, scores], ["later", "earlier", "similarity"])
        db.register("enough", scored.filter(pa.array(scores >= np.float32(least))))
        db.execute(f"insert into {kept} from enough")


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
