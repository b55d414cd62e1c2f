"""Token sequences that begin alike, packed so that what they share is read once.

Sorted sequences form a tree. Parts of it that are small become rows, in which each token sees its ancestors only; what
many rows begin with is their stem, read once for all of them. Shapes: B rows, T tokens of the longest row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Tokens = tuple[int, ...]
LEAST_ROWS = 4
"""Fewer rows than this are read as one, with what they share: a stem is read alone, which takes long for its size."""
STRIDE = 64
"""Tokens compared at once."""
LEAST_STEM_TOKENS = 32
"""Shorter beginnings are read in every row: to keep them is more work than to read them."""


@dataclass(frozen=True)
class Row:
    """Neighbouring sequences, and the tokens of their tree without what belongs to the stem."""

    sequences: tuple[int, ...]
    """Their indexes."""
    size: int


@dataclass(frozen=True)
class Group:
    """Rows that begin with the same tokens."""

    stem: tuple[int, ...]
    rows: list[Row]


def common(a: Tokens, b: Tokens) -> int:
    """Return how many tokens two sequences begin with alike."""
    length, place = min(len(a), len(b)), 0
    while place < length and a[place : place + STRIDE] == b[place : place + STRIDE]:
        place += STRIDE
    return next((at for at in range(place, length) if a[at] != b[at]), length)


def common_to_all(sequences: Sequence[Tokens]) -> int:
    """Return how many tokens all begin with alike."""
    return common(min(sequences), max(sequences)) if sequences else 0


def groups(sequences: Sequence[Tokens], limits: Sequence[int], row_tokens: int) -> list[Group]:
    """Pack sequences into rows of about `row_tokens`; a sequence is never cut, so one may be longer.

    `limits` says for each sequence how long a stem may be: the first prediction that is asked for comes behind it.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = np.array([0, *(common(sequences[a], sequences[b]) for a, b in pairwise(order))])
    lengths = np.array([len(sequences[index]) for index in order])
    limit = np.array([limits[index] for index in order])
    new = np.concatenate([[0], np.cumsum(lengths - shared)])
    """Nodes of the tree before each sequence."""
    found: dict[tuple[int, ...], list[Row]] = {}

    def size(first: int, end: int) -> int:
        """Nodes of a part of the tree, from the root."""
        return int(new[end] - new[first] + shared[first])

    def pack(first: int, end: int, stem: int) -> None:
        least = int(shared[first + 1 : end].min(initial=lengths[first]))
        longer = min(least, int(limit[first:end].min()))
        if longer - stem < LEAST_STEM_TOKENS:
            longer = stem
        below = size(first, end) - longer
        rows = -(-below // row_tokens)
        if end - first == 1 or size(first, end) - stem <= row_tokens or (longer > stem and rows < LEAST_ROWS):
            row = Row(tuple(order[first:end]), size(first, end) - stem)
            found.setdefault(tuple(sequences[order[first]][:stem]), []).append(row)
            return
        cuts = [first, *(first + 1 + np.flatnonzero(shared[first + 1 : end] == least)).tolist(), end]
        begin = first
        for here, after in pairwise(cuts):
            if size(begin, after) - longer > row_tokens:
                if here > begin:
                    pack(begin, here, longer)
                begin = here
        pack(begin, end, longer)

    if order:
        pack(0, len(order), 0)
    return [Group(stem, rows) for stem, rows in found.items()]


@dataclass(frozen=True)
class Tree:
    """A row's nodes in the order in which they are read."""

    tokens: list[int]
    depths: list[int]
    """From the first token behind the stem, which has 0."""
    begins: list[int]
    """Where each sequence's own nodes begin."""
    paths: list[list[int]]
    """The nodes of each sequence."""

    @property
    def is_chain(self) -> bool:
        """Whether each token follows the one before."""
        return len(self.paths[-1]) == len(self.tokens)

    def visible(self) -> np.ndarray:
        """Return which nodes each sees, bool [nodes, nodes]: its ancestors and itself."""
        seen = np.zeros((len(self.tokens), len(self.tokens)), dtype=bool)
        for begin, end, path in zip(
            self.begins, [*self.begins[1:], len(self.tokens)], self.paths, strict=True
        ):
            seen[begin:end, path[: len(path) - (end - begin)]] = True
            seen[begin:end, begin:end] = np.tri(end - begin, dtype=bool)
        return seen


def tree(sequences: Sequence[Tokens], stem: int) -> Tree:
    """Return the tree of sorted sequences behind their stem."""
    made = Tree([], [], [], [])
    before: Tokens = ()
    path: list[int] = []
    for sequence in sequences:
        kept, begin = max(0, common(before, sequence) - stem), len(made.tokens)
        made.tokens.extend(sequence[stem + kept :])
        made.depths.extend(range(kept, len(sequence) - stem))
        path = [*path[:kept], *range(begin, len(made.tokens))]
        made.begins.append(begin)
        made.paths.append(path)
        before = sequence
    return made


def batches(group: Group, batch_tokens: int) -> Iterator[list[Row]]:
    """Yield a group's rows, the longest first, at most so many tokens at a time, with padding; or a single row."""
    rows = sorted(group.rows, key=lambda row: -row.size)
    while rows:
        count = max(1, batch_tokens // max(1, rows[0].size))
        yield rows[:count]
        rows = rows[count:]
