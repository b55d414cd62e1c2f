"""How often each source's rows are seen: the mix that pretraining reads, over rows that are stored once.

Llama 2 section 2.1 up-samples the most factual sources and prints no weights.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from llama2_core.config import Natural, PositiveFloat, Record
from llama2_core.data.sampler import permute
from llama2_core.seeding import derive_seed


class SourceWeight(Record):
    """How much of a source there is in the mix."""

    weight: PositiveFloat = 1.0
    """How often its documents are seen for each time that those of a source of weight 1 are."""
    epochs: PositiveFloat = 4.0
    """Most passes over it, whatever its weight and the budget say. Up to 4 are almost as good as new text
    (arXiv 2305.16264)."""


class Segment(Record):
    """A source's rows, which stand together, and how many of them one pass over the mix draws."""

    source: str
    first_row: Natural
    rows: Natural
    draws: Natural

    @property
    def epochs(self) -> float:
        return self.draws / self.rows if self.rows else 0.0


def allot(
    rows: Mapping[str, int], weights: Mapping[str, SourceWeight], budget: int | None = None
) -> dict[str, int]:
    """Return how many draws each source gets: rows x weight, scaled to the budget if there is one.

    A source that its `epochs` hold back leaves its share to the others; when all are held back the budget is not
    reached.
    """
    weighed = {name: count * weights.get(name, SourceWeight()).weight for name, count in rows.items()}
    most = {name: count * weights.get(name, SourceWeight()).epochs for name, count in rows.items()}
    if budget is None:
        return {name: round(min(weighed[name], most[name])) for name in rows}
    drawn: dict[str, float] = {}
    while open_ := {name: weight for name, weight in weighed.items() if weight and name not in drawn}:
        scale = (budget - sum(drawn.values())) / sum(open_.values())
        full = {name: most[name] for name, weight in open_.items() if weight * scale > most[name]}
        drawn |= full or {name: weight * scale for name, weight in open_.items()}
    return {name: round(drawn.get(name, 0)) for name in rows}


class Mixture:
    """A sequence of stored rows in which each source stands as often as its draws say."""

    def __init__(self, segments: Sequence[Segment], seed: int) -> None:
        self.segments, self.seed = segments, seed
        self._ends = np.array(list(accumulate(segment.draws for segment in segments)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Return the stored row at each place, int64; a source's last, partial pass is a random part of it."""
        numbers = np.searchsorted(self._ends, places, side="right")
        found = np.empty(len(places), dtype=np.int64)
        for number in np.unique(numbers):
            segment, here = self.segments[number], numbers == number
            offsets = places[here] - (self._ends[number] - segment.draws)
            epochs, inside = np.divmod(offsets, segment.rows)
            drawn = np.empty(len(offsets), dtype=np.int64)
            for epoch in np.unique(epochs):
                key = derive_seed(self.seed, "draw", segment.source, int(epoch))
                drawn[epochs == epoch] = permute(inside[epochs == epoch], segment.rows, key)
            found[here] = segment.first_row + drawn
        return found
