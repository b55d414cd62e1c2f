"""Duplicates found by DuckDB: by hand, and as a loop over all pairs finds them."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.duplicates import DUPLICATES, SIGNATURES, find_duplicates

BANDS = 4


def row(name: str, minima: list[int], text: str = "", shingles: list[int] | None = None) -> dict:
    """Return a document of as many shingles as minima, each at its place; m of n in common are m / (2n - m) alike."""
    signature = np.array(minima, dtype=np.uint32)
    bands = [
        int.from_bytes(hashlib.blake2b(part.tobytes(), digest_size=8, salt=bytes([index])).digest(), "little")
        for index, part in enumerate(signature.reshape(BANDS, -1))
    ]
    sketch = shingles or [value * len(minima) + place for place, value in enumerate(signature)]
    return {
        "id": name,
        "fingerprint": text or name,
        "bands": bands,
        "minima": signature.tobytes(),
        "sketch": np.unique(np.array(sketch, np.uint32)).tobytes(),
    }


def found(
    tmp_path: Path, *groups: list[dict], threshold: float = 0.6, memory_bytes: int = 512 << 20
) -> list[tuple]:
    files = []
    for number, rows in enumerate(groups):
        files.append(tmp_path / f"{number:05d}.parquet")
        numbered = [{"row": place, **row} for place, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(numbered, schema=SIGNATURES), files[-1])
    destination = tmp_path / "duplicates.parquet"
    find_duplicates(files, threshold, tmp_path / "scratch", destination, memory_bytes=memory_bytes)
    table = pq.read_table(destination)
    assert table.schema == DUPLICATES
    return [(*list(row.values())[:-1], round(row["similarity"], 4)) for row in table.to_pylist()]


def test_the_first_stays_and_is_named(tmp_path: Path) -> None:
    """b is near a; c is near b alone, which goes, so c stays; d repeats a's text, the second a its id."""
    first = [row("a", [1, 2, 3, 4]), row("b", [1, 2, 3, 9]), row("c", [7, 2, 3, 9])]
    second = [row("d", [5, 5, 5, 5], text="a"), row("a", [6, 6, 6, 6]), row("e", [8, 8, 8, 8])]
    assert found(tmp_path, first, [], second) == [
        (0, 1, "near duplicates", "a", 0.6),
        (2, 0, "exact duplicates", "a", 1.0),
        (2, 1, "duplicate id", "a", 1.0),
    ]


def test_the_most_similar_is_named_and_of_equals_the_first(tmp_path: Path) -> None:
    rows = [row("a", [1, 2, 3, 4]), row("b", [1, 9, 9, 9]), row("c", [1, 2, 9, 9])]
    assert found(tmp_path, rows, threshold=0.3) == [(0, 2, "near duplicates", "b", 0.6)]
    tied = [row("a", [1, 2, 3, 4]), row("b", [5, 2, 9, 8]), row("c", [5, 2, 3, 8]), row("d", [1, 2, 9, 4])]
    assert found(tmp_path, tied, threshold=0.3) == [
        (0, 2, "near duplicates", "b", 0.6),
        (0, 3, "near duplicates", "a", 0.6),
    ]


@pytest.mark.parametrize(("threshold", "goes"), [(0.7, []), (0.6, [(0, 1, "near duplicates", "a", 0.6667)])])
def test_minima_nominate_and_shingles_decide(tmp_path: Path, threshold: float, goes: list[tuple]) -> None:
    """All minima are equal, but four shingles of six are shared."""
    rows = [
        row("a", [1, 2, 3, 4], shingles=[1, 2, 3, 4, 5]),
        row("b", [1, 2, 3, 4], shingles=[1, 2, 3, 4, 9]),
    ]
    assert found(tmp_path, rows, threshold=threshold) == goes


@pytest.mark.slow
def test_sketches_beyond_the_memory_limit(tmp_path: Path) -> None:
    """80 MB of them, all compared, where DuckDB may hold 48 MB; every second document goes for the one before."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(10_000):
        sketch = np.sort(random.integers(0, 2**32, 1_024, dtype=np.uint32))
        minima = random.integers(0, 2**32, BANDS).tolist()
        rows += [row(f"{number}{copy}", minima) | {"sketch": sketch.tobytes()} for copy in "ab"]
    assert len(found(tmp_path, rows, memory_bytes=48 << 20)) == 10_000


def test_no_document_at_all(tmp_path: Path) -> None:
    assert found(tmp_path, []) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_over_all_pairs_finds_the_same(tmp_path: Path, seed: int) -> None:
    """Families of near copies, in groups of unequal size."""
    random = np.random.default_rng(seed)
    families = random.integers(0, 2**27, (60, 16))
    signatures = families[random.integers(0, 60, 300)]
    changed = random.random(signatures.shape) < random.choice([0.02, 0.1, 0.3], (300, 1))
    signatures[changed] = random.integers(0, 2**27, changed.sum())
    rows = [row(str(number), list(signature)) for number, signature in enumerate(signatures)]
    got = {int(rows[start + place]["id"]): int(kept) for start, place, kept in _ordinals(tmp_path, rows)}

    expected: dict[int, int] = {}
    for later in range(300):
        pairs = [
            (alike(signatures[later], signatures[earlier]), -earlier)
            for earlier in range(later)
            if earlier not in expected and _share_a_band(signatures[later], signatures[earlier])
        ]
        best = max(pairs, default=(0.0, 0))
        if best[0] >= 0.6:
            expected[later] = -best[1]
    assert got == expected
    assert len(expected) > 100


def alike(a: np.ndarray, b: np.ndarray) -> float:
    common = np.sum(a == b)
    return common / (2 * len(a) - common)


def _ordinals(tmp_path: Path, rows: list[dict]):
    starts = [0, 100, 101, 250]
    groups = [rows[start:end] for start, end in zip(starts, [*starts[1:], 300], strict=True)]
    return [(starts[group], place, kept) for group, place, _, kept, _ in found(tmp_path, *groups)]


def _share_a_band(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a == b).reshape(BANDS, -1).all(1).any())


def test_a_folder_may_have_an_apostrophe(tmp_path: Path) -> None:
    folder = tmp_path / "Anna's corpus"
    folder.mkdir()
    pq.write_table(SIGNATURES.empty_table(), folder / "signatures.parquet")
    find_duplicates([folder / "signatures.parquet"], 0.8, folder / "spill", folder / "duplicates.parquet")
    assert pq.read_metadata(folder / "duplicates.parquet").num_rows == 0
