"""What duplicates have in common: exact ones the SHA-256, near ones many shingles.

The paper says nothing of its method. Word 5-grams and a Jaccard similarity of 0.8 are the field's custom
(Lee et al. 2022, arXiv 2107.06499).
"""

import hashlib

from llama2_core.data.documents import normalise, words_of


def fingerprint(text: str) -> str:
    """Return the SHA-256 of the normalised text, whatever its white space."""
    return hashlib.sha256(" ".join(normalise(text).split()).encode()).hexdigest()


def shingles(text: str, n: int = 5) -> list[str]:
    """Return the n-grams of lower-case words; a shorter text is one shingle."""
    words = words_of(text.lower())
    return [" ".join(words[start : start + n]) for start in range(max(len(words) - n + 1, 1))]
