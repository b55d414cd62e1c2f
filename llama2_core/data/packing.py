"""Filling fixed-length rows: a stream of documents for pretraining, whole dialogs for SFT."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def pack_stream(documents: Iterable[Sequence[int]], row_tokens: int) -> Iterator[np.ndarray]:
    """Concatenate documents and cut rows int64 [row_tokens]; the unfilled tail is dropped."""
    buffer: list[int] = []
    for document in documents:
        buffer.extend(document)
        cut = len(buffer) - len(buffer) % row_tokens
        for start in range(0, cut, row_tokens):
            yield np.array(buffer[start : start + row_tokens], dtype=np.int64)
        del buffer[:cut]


def pack_dialogs(
    dialogs: Iterable[tuple[Sequence[int], Sequence[bool]]], row_tokens: int, fill: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Concatenate whole dialogs into rows; return tokens int64 [N, row_tokens], mask bool, dialogs left out.

    A dialog that does not fit the rest of a row opens the next; the rest is filled and not learned. One longer
    than a row is left out and counted. The first token of a dialog is never learned, so a row's mask speaks of
    its own tokens: predictions are of tokens[1:], with mask[1:].
    """
    rows: list[tuple[list[int], list[bool]]] = []
    left_out = 0
    for tokens, learned in dialogs:
        if len(tokens) > row_tokens:
            left_out += 1
            continue
        if not rows or len(rows[-1][0]) + len(tokens) > row_tokens:
            rows.append(([], []))
        rows[-1][0].extend(tokens)
        rows[-1][1].extend(learned)
    packed = np.full((len(rows), row_tokens), fill, dtype=np.int64)
    mask = np.zeros((len(rows), row_tokens), dtype=bool)
    for index, (tokens, learned) in enumerate(rows):
        packed[index, : len(tokens)] = tokens
        mask[index, : len(learned)] = learned
    return packed, mask, left_out
