"""Published rules for dropping text that is not prose: Gopher's and C4's.

Gopher is Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1; C4 is Raffel et al. 2020 (arXiv 1910.10683),
section 2.2. Left out: C4's list of bad words, because Llama 2 keeps toxic text on purpose (section 4.1).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from llama2_core.config import Natural, NaturalFloat, Record, Share
from llama2_core.data.documents import Drop, words_of

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("•", "‣", "◦", "-", "*")


class GopherQuality(Record):
    """What a document must look like. Gopher, appendix A.1.1, "quality filtering"."""

    min_words: Natural = 50
    """Fewest words. Gopher: 50."""
    max_words: Natural = 100_000
    """Most words. Gopher: 100,000."""
    min_mean_word_length: NaturalFloat = 3.0
    """Shortest mean word, in characters. Gopher: 3; set 0 for Chinese."""
    max_mean_word_length: NaturalFloat = 10.0
    """Longest mean word, in characters. Gopher: 10."""
    max_symbols_per_word: NaturalFloat = 0.1
    """Most hash signs, or most ellipses, a word. Gopher: 0.1."""
    max_bullet_lines: Share = 0.9
    """Largest share of lines that begin with a bullet. Gopher: 90%."""
    max_ellipsis_lines: Share = 0.3
    """Largest share of lines that end with an ellipsis. Gopher: 30%."""
    min_alphabetic_words: Share = 0.8
    """Smallest share of words that hold a letter. Gopher: 80%."""
    min_stop_words: Natural = 2
    """Fewest different words of: the, be, to, of, and, that, have, with. Gopher: 2; set 0 outside English."""


class GopherRepetition(Record):
    """How much a document may repeat itself. Gopher, appendix A.1.1, table A1; first occurrences are free."""

    max_duplicate_lines: Share = 0.30
    """Largest share of lines that repeat an earlier one. Gopher, table A1."""
    max_duplicate_paragraphs: Share = 0.30
    """Largest share of paragraphs that repeat an earlier one. Gopher, table A1."""
    max_duplicate_line_characters: Share = 0.20
    """Largest share of characters in repeated lines. Gopher, table A1."""
    max_duplicate_paragraph_characters: Share = 0.20
    """Largest share of characters in repeated paragraphs. Gopher, table A1."""
    max_top_ngram_characters: tuple[Share, Share, Share] = (0.20, 0.18, 0.16)
    """Largest share of characters in the most frequent 2-, 3- and 4-gram. Gopher, table A1."""
    max_duplicate_ngram_characters: tuple[Share, Share, Share, Share, Share, Share] = (
        0.15,
        0.14,
        0.13,
        0.12,
        0.11,
        0.10,
    )
    """Largest share of characters in repeated 5-, 6-, 7-, 8-, 9- and 10-grams. Gopher, table A1."""


class C4Rules(Record):
    """C4's rules for whole pages (drop) and for single lines (strip). C4, section 2.2."""

    drop_lorem_ipsum: bool = True
    """Drop a page with the placeholder text "lorem ipsum". C4, section 2.2."""
    drop_curly_braces: bool = False
    """Drop a page with a curly brace. C4 does; off here, since code and formulas are wanted."""
    strip_javascript_warnings: bool = True
    """Strip lines that ask for JavaScript. C4 strips all that name it; prose about it stays here."""
    strip_fragments: bool = False
    """Strip lines without a full stop or quotation mark at the end. C4 does; headings are wanted here."""


class QualityRules(Record):
    """All thresholds of the quality step."""

    gopher: GopherQuality = GopherQuality()
    """Length, words, symbols, bullets, stop words."""
    repetition: GopherRepetition = GopherRepetition()
    """Repeated lines, paragraphs and n-grams."""
    c4: C4Rules = C4Rules()
    """Placeholder text, braces, lines that are no sentences."""


def quality_verdict(text: str, rules: QualityRules) -> Drop | None:
    """Return the first rule that the text breaks, or None. Cheap rules come first."""
    for reason, detail in _broken_rules(text, rules):
        if detail:
            return Drop(reason, detail)
    return None


def strip_lines(text: str, rules: C4Rules) -> str:
    """Return the text without the lines that the C4 line rules refuse; empty lines stay."""
    return "\n".join(line for line in text.split("\n") if not line or _is_welcome(line, rules))


def mean_word_length(words: Sequence[str]) -> float:
    return sum(map(len, words)) / len(words)


def symbols_per_word(text: str, words: Sequence[str]) -> float:
    """Return hash signs or ellipses, whichever are more, a word."""
    return max(text.count("#"), text.count("...") + text.count("…")) / len(words)


def bullet_line_share(lines: Sequence[str]) -> float:
    return sum(line.lstrip().startswith(BULLETS) for line in lines) / len(lines)


def ellipsis_line_share(lines: Sequence[str]) -> float:
    return sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)


def alphabetic_word_share(words: Sequence[str]) -> float:
    return sum(any(map(str.isalpha, word)) for word in words) / len(words)


def stop_word_count(words: Sequence[str]) -> int:
    """Return how many different stop words occur, whatever their case and punctuation."""
    return len(STOP_WORDS.intersection(word.strip(".,;:!?\"'()").lower() for word in words))


def duplicate_shares(pieces: Sequence[str]) -> tuple[float, float]:
    """Return the shares of pieces, and of characters, that belong to repeats of an earlier piece."""
    repeats = {piece: count - 1 for piece, count in Counter(pieces).items()}
    repeated_characters = sum(len(piece) * count for piece, count in repeats.items())
    return sum(repeats.values()) / len(pieces), repeated_characters / sum(map(len, pieces))


def ngram_shares(words: Sequence[str], longest: int = 10) -> Iterator[tuple[int, float, float]]:
    """Yield (n, top, repeated) for n = 2, 3, ... `longest`, as shares of the words' characters.

    top: every occurrence of the most frequent n-gram (0 if none occurs twice); repeated: the words within any
    n-gram that occurred before, each word once.
    """
    lengths = np.array([len(word) for word in words])
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    word_ids = np.array([vocabulary[word] for word in words])
    before = np.concatenate([[0], np.cumsum(lengths)])  # characters before each word
    ids = word_ids
    for n in range(2, min(longest, len(words)) + 1):
        pairs = ids[:-1] * len(vocabulary) + word_ids[n - 1 :]
        _, first, ids, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        characters = np.bincount(ids, weights=before[n:] - before[:-n])
        top = characters[counts == counts.max()].max() if counts.max() > 1 else 0.0

        is_repeat = np.ones(len(ids), dtype=bool)
        is_repeat[first] = False
        starts = np.flatnonzero(is_repeat)
        covered = np.zeros(len(words), dtype=bool)
        covered[(starts[:, None] + np.arange(n)).ravel()] = True
        yield n, min(top / before[-1], 1.0), lengths[covered].sum() / before[-1]


def _broken_rules(text: str, rules: QualityRules) -> Iterator[tuple[str, str | None]]:
    """Yield (rule's name, by how much it is broken or None) in order of cost."""
    gopher, repetition, c4 = rules.gopher, rules.repetition, rules.c4
    words = words_of(text)
    yield "gopher: too few words", _below(len(words), max(gopher.min_words, 1))
    yield "gopher: too many words", _above(len(words), gopher.max_words)
    yield "c4: lorem ipsum", "lorem ipsum" if c4.drop_lorem_ipsum and "lorem ipsum" in text.lower() else None
    yield "c4: curly brace", "{ or }" if c4.drop_curly_braces and re.search("[{}]", text) else None
    yield "gopher: short words", _below(mean_word_length(words), gopher.min_mean_word_length)
    yield "gopher: long words", _above(mean_word_length(words), gopher.max_mean_word_length)
    yield "gopher: symbols", _above(symbols_per_word(text, words), gopher.max_symbols_per_word)
    lines = [line for line in text.split("\n") if line.strip()]
    yield "gopher: bullet lines", _above(bullet_line_share(lines), gopher.max_bullet_lines)
    yield "gopher: ellipsis lines", _above(ellipsis_line_share(lines), gopher.max_ellipsis_lines)
    yield "gopher: words without letters", _below(alphabetic_word_share(words), gopher.min_alphabetic_words)
    yield "gopher: too few stop words", _below(stop_word_count(words), gopher.min_stop_words)

    share, characters = duplicate_shares(lines)
    yield "gopher: repeated lines", _above(share, repetition.max_duplicate_lines)
    yield "gopher: repeated line characters", _above(characters, repetition.max_duplicate_line_characters)
    share, characters = duplicate_shares([piece for piece in re.split(r"\n\s*\n", text) if piece.strip()])
    yield "gopher: repeated paragraphs", _above(share, repetition.max_duplicate_paragraphs)
    yield (
        "gopher: repeated paragraph characters",
        _above(characters, repetition.max_duplicate_paragraph_characters),
    )
    limits = repetition.max_top_ngram_characters + repetition.max_duplicate_ngram_characters
    for (n, top, repeated), limit in zip(ngram_shares(words), limits, strict=False):
        if n <= 4:
            yield "gopher: top n-gram", _above(top, limit, f"{n}-gram ")
        else:
            yield "gopher: repeated n-grams", _above(repeated, limit, f"{n}-grams ")


def _below(value: float, limit: float) -> str | None:
    return f"{value:.3g} < {limit:g}" if value < limit else None


def _above(value: float, limit: float, what: str = "") -> str | None:
    return f"{what}{value:.3g} > {limit:g}" if value > limit else None


_DEMAND = re.compile(r"\b(enabled?|disabled?|turned? o(n|ff)|requires?|supports?)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*$|[\"”]$")


def _is_welcome(line: str, rules: C4Rules) -> bool:
    if rules.strip_javascript_warnings and "javascript" in line.lower() and _DEMAND.search(line):
        return False
    return not rules.strip_fragments or bool(_SENTENCE_END.search(line.rstrip()))
