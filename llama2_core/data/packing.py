"""Filling fixed-length rows: a stream of documents for pretraining, whole dialogs for SFT."""

from collections.abc import Iterable, Sequence

import numpy as np


class StreamPacker:
    """Concatenates documents and cuts rows of `row_tokens`; what fills no row waits for the next documents."""

    def __init__(self, row_tokens: int) -> None:
        self.row_tokens = row_tokens
        self._tokens, self._begins = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)

    def add(self, documents: Iterable[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that are full now: int64 [N, row_tokens], and bool where a document begins."""
        arrays = [np.array(document, dtype=np.int64) for document in documents]
        tokens = np.concatenate([self._tokens, *arrays])
        begins = np.zeros(len(tokens), dtype=bool)
        begins[: len(self._begins)] = self._begins
        begins[len(self._begins) + np.cumsum([0, *map(len, arrays)])[:-1]] = True
        cut = len(tokens) - len(tokens) % self.row_tokens
        self._tokens, self._begins = tokens[cut:], begins[cut:]
        return tokens[:cut].reshape(-1, self.row_tokens), begins[:cut].reshape(-1, self.row_tokens)


def pack_dialogs(
    dialogs: Iterable[tuple[Sequence[int], Sequence[bool]]], row_tokens: int, fill: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Concatenate whole dialogs into rows; return tokens int64 [N, row_tokens], mask bool, where a dialog begins
    bool, dialogs left out.

    A dialog that does not fit the rest of a row opens the next; the rest is filled and not learned. One longer
    than a row is left out and counted. The first token of a dialog is never learned, so a row's mask speaks of
    its own tokens: predictions are of tokens[1:], with mask[1:].
    """
    rows: list[tuple[list[int], list[bool], list[int]]] = []
    left_out = 0
    for tokens, learned in dialogs:
        if len(tokens) > row_tokens:
            left_out += 1
            continue
        if not rows or len(rows[-1][0]) + len(tokens) > row_tokens:
            rows.append(([], [], []))
        rows[-1][2].append(len(rows[-1][0]))
        rows[-1][0].extend(tokens)
        rows[-1][1].extend(learned)
    packed = np.full((len(rows), row_tokens), fill, dtype=np.int64)
    mask, begins = (np.zeros((len(rows), row_tokens), dtype=bool) for _ in range(2))
    for index, (tokens, learned, starts) in enumerate(rows):
        packed[index, : len(tokens)] = tokens
        mask[index, : len(learned)] = learned
        begins[index, starts] = True
    return packed, mask, begins, left_out
