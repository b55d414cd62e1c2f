"""How alike documents are by the hashes of their shingles, and those hashes, held on disk."""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SKETCH = 1_024
ROWS = 2_048
"""Read at once."""
Similarity = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray]
"""Of pairs of documents, by their numbers."""


class Numbers:
    """A column of uint32 of some documents, in one file, since DuckDB would hold it in memory to join it."""

    def __init__(self, groups: Sequence[Path], column: str, scratch: Path, ordinals: np.ndarray) -> None:
        """Copy it from the groups' files; `ordinals` are sorted, and count the rows of all files."""
        self._ordinals, sizes, start = ordinals, array("q", [0]), 0
        path = scratch / f"{column}.uint32"
        with path.open("wb") as file:
            for group in groups:
                for batch in pq.ParquetFile(group).iter_batches(ROWS, columns=[column]):
                    first, after = np.searchsorted(ordinals, [start, start + len(batch)])
                    found = batch.column(0).take(pa.array(ordinals[first:after] - start)).to_pylist()
                    sizes.extend(len(numbers) // 4 for numbers in found)
                    file.write(b"".join(found))
                    start += len(batch)
        self._ends = np.cumsum(sizes)
        self._numbers = (
            np.asarray(np.memmap(path, np.uint32, "r")) if self._ends[-1] else np.empty(0, np.uint32)
        )

    def of(self, ordinals: np.ndarray) -> list[np.ndarray]:
        places = np.searchsorted(self._ordinals, ordinals)
        return [self._numbers[self._ends[place] : self._ends[place + 1]] for place in places]


def equal_minima(later: Sequence[np.ndarray], earlier: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of minima that are equal, float [pairs]."""
    return (np.stack(later) == np.stack(earlier)).mean(1)


def jaccard(later: Sequence[np.ndarray], earlier: Sequence[np.ndarray]) -> np.ndarray:
    """Return how many of the SKETCH smallest hashes of either sketch are in both, as a share, float [pairs]."""
    keys = []
    for sketches in (later, earlier):
        pairs = np.repeat(np.arange(len(sketches), dtype=np.uint64), [len(sketch) for sketch in sketches])
        keys.append(pairs << np.uint64(32) | np.concatenate(sketches))
    distinct, times = np.unique(np.concatenate(keys), return_counts=True)
    pair = (distinct >> np.uint64(32)).astype(np.int64)
    smallest = np.arange(len(pair)) - np.searchsorted(pair, pair) < SKETCH
    either, both = (
        np.bincount(pair[chosen], minlength=len(later)) for chosen in (smallest, smallest & (times == 2))
    )
    return both / either
