"""How alike the samples of one prompt are: Self-BLEU. Llama 2 section 5.1, Figure 21; Zhu et al., arXiv 1802.01886."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import or_

ORDER = 4
EPSILON = 0.1
"""In place of no match of an order, where shorter n-grams match: Chen and Cherry's first method, as in Texygen."""
WORD = re.compile(r"[^\W\u3040-\u9fff\uac00-\ud7a3]+|\S")
"""A word, a mark, or one character of Chinese, Japanese or Korean."""


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU-4 of each text with all others as its references: 1 where all are equal.

    Raises ValueError for fewer than two texts, or a blank one.
    """
    if len(texts) < 2:
        raise ValueError(f"{len(texts)} text cannot be compared with others")
    words = [WORD.findall(text) for text in texts]
    if not all(words):
        raise ValueError("a blank text is like no other")
    grams = [[Counter(zip(*(said[i:] for i in range(n)))) for n in range(1, ORDER + 1)] for said in words]  # noqa: B905
    return sum(_bleu(place, words, grams) for place in range(len(texts))) / len(texts)


def _bleu(place: int, words: Sequence[Sequence[str]], grams: Sequence[Sequence[Counter]]) -> float:
    """Return BLEU of one text, of the orders that it is long enough for: clipped precisions' geometric mean, times the
    brevity penalty."""
    said = len(words[place])
    order = min(ORDER, said)
    others = [number for number in range(len(words)) if number != place]
    log_precision = 0.0
    for n, found in enumerate(grams[place][:order]):
        matches = (found & reduce(or_, (grams[number][n] for number in others))).total()
        if not matches and not n:
            return 0.0
        log_precision += math.log((matches or EPSILON) / found.total()) / order
    closest = min((len(words[number]) for number in others), key=lambda length: (abs(length - said), length))
    return math.exp(log_precision + min(0.0, 1 - closest / said))
