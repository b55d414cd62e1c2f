"""How much of a benchmark stood in the training data, and whether that helped. Llama 2 appendix A.6.

A match is the same span in a sample and in the training tokens, longer than 10 tokens, differing in at most 4 places,
none of them among its first 10 nor the last. The paper finds them by suffix arrays; here the samples are indexed by
every 10 tokens and the training tokens are read once, in pieces, which finds the same matches in the memory of the
samples. `llama2_core.data.contamination` flags documents; this scores samples, over the whole training set.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from llama2_core.data.contamination import EXACT_TOKENS, gram_hashes

SKIP_BUDGET = 4
CLEAN, DIRTY = 0.2, 0.8
"""Shares of a sample's tokens: clean is below the first, dirty from the second on."""
BLOCK = 32
"""Tokens by which candidates are extended at once."""
PAIRS_AT_ONCE = 1 << 19
TABLE_BITS = 26


class SampleIndex:
    """Samples' tokens end to end, where every 10 of one sample stand, and the longest match from each place."""

    def __init__(self, samples: Sequence[Sequence[int]]) -> None:
        self.bounds = np.concatenate([[0], np.cumsum([len(sample) for sample in samples])]).astype(np.int64)
        self.tokens = np.array([token for sample in samples for token in sample], dtype=np.int32)
        self.ends = np.repeat(self.bounds[1:], np.diff(self.bounds))
        """Where the sample of each token ends."""
        self.longest = np.zeros(len(self.tokens), dtype=np.int32)
        """Of the matches that begin here."""
        hashes = gram_hashes(self.tokens)
        places = np.flatnonzero(self.ends[: len(hashes)] == self.ends[EXACT_TOKENS - 1 :])
        self._places = places[np.argsort(hashes[places], kind="stable")]
        self._hashes = hashes[self._places]
        self._table = np.zeros(1 << TABLE_BITS, dtype=bool)
        self._table[self._hashes >> np.uint32(32 - TABLE_BITS)] = True

    def scan(self, tokens: NDArray[np.int32], first: int, last: int) -> None:
        """Note the matches that begin at training tokens [first, last) of a piece, which goes on behind `last` as far
        as the longest sample, and has the token before `first` where there is one.
        """
        hashes = gram_hashes(tokens[first : last + EXACT_TOKENS - 1])
        starts = np.flatnonzero(self._table[hashes >> np.uint32(32 - TABLE_BITS)])
        low = np.searchsorted(self._hashes, hashes[starts])
        high = np.searchsorted(self._hashes, hashes[starts], side="right")
        found = high > low
        starts, low, high = starts[found] + first, low[found], high[found]
        for begin, end in _batches(high - low, PAIRS_AT_ONCE):
            counts = (high - low)[begin:end]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            places = self._places[np.repeat(low[begin:end], counts) + within]
            self._note(tokens, np.repeat(starts[begin:end], counts), places)

    def _note(self, tokens: NDArray[np.int32], starts: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        steps = np.arange(EXACT_TOKENS)
        same = (tokens[starts[:, None] + steps] == self.tokens[places[:, None] + steps]).all(axis=1)
        # one that goes on from the token before is part of that one's match
        begun = (starts > 0) & (places > 0) & (tokens[starts - 1] == self.tokens[places - 1])
        same &= ~(begun & (self.ends[places - 1] == self.ends[places]))
        starts, places = starts[same], places[same]
        np.maximum.at(self.longest, places, self._lengths(tokens, starts, places))

    def _lengths(
        self, tokens: NDArray[np.int32], starts: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Return how far the spans from each pair of places are the same, but for the skips."""
        lengths = np.full(len(starts), EXACT_TOKENS, dtype=np.int32)
        left = np.minimum(self.ends[places] - places, len(tokens) - starts)
        skips, live, offset = np.zeros(len(starts), dtype=np.int64), np.arange(len(starts)), EXACT_TOKENS
        steps = np.arange(BLOCK)
        while len(live := live[(left[live] > offset) & (skips[live] <= SKIP_BUDGET)]):
            at = offset + steps
            inside = at < left[live][:, None]
            here = np.minimum(starts[live][:, None] + at, len(tokens) - 1)
            there = np.minimum(places[live][:, None] + at, len(self.tokens) - 1)
            same = (tokens[here] == self.tokens[there]) & inside
            missed = skips[live][:, None] + np.cumsum(~same & inside, axis=1)
            good = same & (missed <= SKIP_BUDGET)
            last = np.where(good.any(axis=1), offset + BLOCK - np.argmax(good[:, ::-1], axis=1), 0)
            lengths[live] = np.maximum(lengths[live], last)
            skips[live] = missed[:, -1]
            offset += BLOCK
        return lengths

    def covered(self) -> NDArray[np.int32]:
        """Return for each token the length of the longest match that it lies in, 0 for none."""
        cover = np.zeros(len(self.tokens), dtype=np.int32)
        places = np.flatnonzero(self.longest > EXACT_TOKENS)
        for place in places[np.argsort(self.longest[places], kind="stable")]:
            cover[place : place + self.longest[place]] = self.longest[place]
        return cover

    def shares(self, length: int) -> NDArray[np.float64]:
        """Return the share of each sample's tokens that lie in matches of `length` tokens or more."""
        within = np.concatenate([[0], np.cumsum(self.covered() >= max(length, EXACT_TOKENS + 1))])
        sizes = np.diff(self.bounds)
        return (within[self.bounds[1:]] - within[self.bounds[:-1]]) / np.maximum(sizes, 1)


def scan_all(index: SampleIndex, pieces: Iterable[NDArray[np.int32]]) -> int:
    """Scan training tokens that come in pieces, in order; return how many there were."""
    behind = int(np.diff(index.bounds).max(initial=0)) + EXACT_TOKENS
    held, total, first = np.zeros(0, dtype=np.int32), 0, 0
    for piece in pieces:
        held = np.concatenate([held, piece])
        total += len(piece)
        last = len(held) - behind
        if last > first:
            index.scan(held, first, last)
            held, first = held[last - 1 :], 1
    index.scan(held, first, len(held))
    return total


@dataclass(frozen=True)
class Subset:
    """Samples of like contamination: how many, their mean score, and by how many deviations that is off the mean."""

    name: str
    n: int
    contaminated: float
    """Mean share of their tokens."""
    mean: float
    z: float


def subsets(shares: NDArray[np.float64], scores: NDArray[np.float64]) -> list[Subset]:
    """Return the four overlapping subsets by share; Z_n = (mean - mu) / (sigma / sqrt(n)), mu and sigma of all."""
    mu, sigma = scores.mean(), scores.std()
    parts = {
        "clean": shares < CLEAN,
        "not clean": shares >= CLEAN,
        "not dirty": shares < DIRTY,
        "dirty": shares >= DIRTY,
    }
    found = []
    for name, part in parts.items():
        n, mean = int(part.sum()), float(scores[part].mean()) if part.any() else 0.0
        z = (mean - mu) * np.sqrt(n) / sigma if n and sigma else 0.0
        contaminated = float(shares[part].mean()) if n else 0.0
        found.append(Subset(name, n, contaminated, mean, float(z)))
    return found


def helped(parts: Sequence[Subset]) -> bool:
    """Tell whether contamination raised the score: all four |Z| above 2, clean and not dirty below the mean, A.6."""
    signs = {"clean": -1, "not dirty": -1, "not clean": 1, "dirty": 1}
    return all(signs[part.name] * part.z > 2 for part in parts)


def _batches(counts: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of counts that add up to about `most`."""
    group = np.cumsum(counts) // most
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1), len(counts)]
    return ((begin, end) for begin, end in pairwise(edges) if end > begin)
