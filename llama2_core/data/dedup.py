"""Duplicates: exact by SHA-256, near by the share of equal MinHash values. The first occurrence stays.

The paper says nothing of its method. Word 5-grams and a Jaccard similarity of 0.8 are the field's custom
(Lee et al. 2022, arXiv 2107.06499).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llama2_core.data.documents import Document, normalise, words_of

Signature = NDArray[np.uint32]
"""One minimum a permutation: (permutations,)."""


def fingerprint(text: str) -> str:
    """Return the SHA-256 of the normalised text, whatever its white space."""
    return hashlib.sha256(" ".join(normalise(text).split()).encode()).hexdigest()


def exact_duplicates(documents: Iterable[Document]) -> dict[str, str]:
    """Return the id that stays, by the id that goes."""
    first_id: dict[str, str] = {}
    kept_by_dropped = {}
    for document in documents:
        kept = first_id.setdefault(fingerprint(document.text), document.id)
        if kept != document.id:
            kept_by_dropped[document.id] = kept
    return kept_by_dropped


def shingles(text: str, n: int = 5) -> list[str]:
    """Return the n-grams of lower-case words; a shorter text is one shingle."""
    words = words_of(text.lower())
    return [" ".join(words[start : start + n]) for start in range(max(len(words) - n + 1, 1))]


def similarity(a: Signature, b: Signature) -> float:
    """Estimate the Jaccard similarity of two sets of shingles: the share of equal minima (Broder 1997)."""
    return float(np.mean(a == b))


def nearest(
    signature: Signature, candidates: Sequence[str], signatures: Mapping[str, Signature], threshold: float
) -> tuple[str, float] | None:
    """Return (id, similarity) of the most similar candidate at or above the threshold, the first on a tie."""
    scored = [(candidate, similarity(signature, signatures[candidate])) for candidate in candidates]
    best = max(scored, key=lambda pair: pair[1], default=None)
    return best if best is not None and best[1] >= threshold else None
