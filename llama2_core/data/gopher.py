"""Gopher's rules for dropping text that is not prose or repeats itself.

Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1.
"""

import re
from collections.abc import Sequence

from llama2_core.config import Natural, NaturalFloat, Record, Share
from llama2_core.data.page import Findings, Page, above, below
from llama2_core.data.repetition import (
    duplicate_shares,
    recurring_ngrams,
    repeated_characters,
    top_characters,
)

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


def length_findings(page: Page, limits: GopherQuality) -> Findings:
    """A page needs a word, whatever the limit: every other rule divides by their number."""
    yield "gopher: too few words", below(len(page.words), max(limits.min_words, 1))
    yield "gopher: too many words", above(len(page.words), limits.max_words)


def shape_findings(page: Page, limits: GopherQuality) -> Findings:
    words, lines = page.words, page.lines
    yield "gopher: short words", below(mean_word_length(words), limits.min_mean_word_length)
    yield "gopher: long words", above(mean_word_length(words), limits.max_mean_word_length)
    yield "gopher: symbols", above(symbols_per_word(page.text, words), limits.max_symbols_per_word)
    yield "gopher: bullet lines", above(bullet_line_share(lines), limits.max_bullet_lines)
    yield "gopher: ellipsis lines", above(ellipsis_line_share(lines), limits.max_ellipsis_lines)
    yield "gopher: words without letters", below(alphabetic_word_share(words), limits.min_alphabetic_words)
    yield "gopher: too few stop words", below(stop_word_count(words), limits.min_stop_words)


def repetition_findings(page: Page, limits: GopherRepetition) -> Findings:
    share, characters = duplicate_shares(page.lines)
    yield "gopher: repeated lines", above(share, limits.max_duplicate_lines)
    yield "gopher: repeated line characters", above(characters, limits.max_duplicate_line_characters)
    share, characters = duplicate_shares(
        [piece for piece in re.split(r"\n\s*\n", page.text) if piece.strip()]
    )
    yield "gopher: repeated paragraphs", above(share, limits.max_duplicate_paragraphs)
    yield (
        "gopher: repeated paragraph characters",
        above(characters, limits.max_duplicate_paragraph_characters),
    )
    characters = sum(map(len, page.words))
    all_limits = limits.max_top_ngram_characters + limits.max_duplicate_ngram_characters
    for n, (ngrams, limit) in enumerate(zip(recurring_ngrams(page.words), all_limits, strict=False), 2):
        if n <= 4:
            top = min(top_characters(ngrams) / characters, 1.0)  # occurrences may overlap
            yield "gopher: top n-gram", above(top, limit, f"{n}-gram ")
        else:
            repeated = repeated_characters(ngrams) / characters
            yield "gopher: repeated n-grams", above(repeated, limit, f"{n}-grams ")


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
    return sum(word[0].isalpha() or any(map(str.isalpha, word)) for word in words) / len(words)


def stop_word_count(words: Sequence[str]) -> int:
    """Return how many different stop words occur, whatever their case and punctuation."""
    return len(STOP_WORDS.intersection(word.strip(".,;:!?\"'()").lower() for word in set(words)))
