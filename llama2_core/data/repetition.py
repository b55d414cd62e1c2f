"""How much of a text repeats what it said before: lines, paragraphs, n-grams of words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

Ngram = tuple[str, ...]


def duplicate_shares(pieces: Sequence[str]) -> tuple[float, float]:
    """Return the shares of pieces, and of characters, that belong to repeats of an earlier piece."""
    repeats = {piece: count - 1 for piece, count in Counter(pieces).items()}
    repeated_characters = sum(len(piece) * count for piece, count in repeats.items())
    return sum(repeats.values()) / len(pieces), repeated_characters / sum(map(len, pieces))


def recurring_ngrams(words: Sequence[str], longest: int = 10) -> Iterator[Mapping[int, Ngram]]:
    """Yield, for n = 2, 3, ... `longest`, every n-gram that occurs more than once, by its first word's position.

    Ends early, where no n-gram does.
    """
    word_counts = Counter(words)
    starts = [position for position, word in enumerate(words) if word_counts[word] > 1]
    for n in range(2, longest + 1):
        followed = set(starts)
        starts = [start for start in starts if start + 1 in followed]  # whatever recurs, so do its parts
        ngrams = [tuple(words[start : start + n]) for start in starts]
        counts = Counter(ngrams)
        recurring = {start: ngram for start, ngram in zip(starts, ngrams, strict=True) if counts[ngram] > 1}
        if not recurring:
            return
        yield recurring
        starts = list(recurring)


def top_characters(ngrams: Mapping[int, Ngram]) -> int:
    """Return the characters of every occurrence of the most frequent n-gram, the longest of equals."""
    counts = Counter(ngrams.values())
    return max(((count, count * len("".join(ngram))) for ngram, count in counts.items()), default=(0, 0))[1]


def repeated_characters(ngrams: Mapping[int, Ngram]) -> int:
    """Return the characters of all words within any n-gram that occurred before, each word once."""
    covered: dict[int, str] = {}
    seen: set[Ngram] = set()
    for start, ngram in ngrams.items():
        if ngram in seen:
            covered.update(enumerate(ngram, start))
        seen.add(ngram)
    return len("".join(covered.values()))
