"""A document, what a step of the corpus stage answers about it, and the normal form of text."""

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text and where it came from; `id` is unique in its corpus and begins with the source's name."""

    id: str
    source: str
    text: str
    language: str = "unknown"
    language_score: float = 0.0
    url: str = ""
    changes: tuple[str, ...] = ()
    """What steps altered: "encoding", or the kind of a personal datum, once for each."""
    contamination: tuple[str, ...] = ()
    """Names of the benchmark samples that the text repeats."""
    toxicity: float | None = None
    """Mean score of its lines, in [0, 1]; absent if not measured, as in the fields below."""
    pronouns: tuple[str, ...] = ()
    """Pronoun groups found, such as "she"."""
    identities: tuple[str, ...] = ()
    """Identity terms found, such as "religion/christian"."""


@dataclass(frozen=True)
class Drop:
    """Why a document leaves: `reason` is one of few, for counting; `detail` is this document's numbers."""

    reason: str
    detail: str


Verdict = Document | Drop
"""A step answers each document with itself (kept), an altered copy (changed) or a Drop."""


def normalise(text: str) -> str:
    """Return NFC text with \\n line ends, no control characters, at most one empty line in a row."""
    text = _LONE_SURROGATE.sub("\ufffd", _INVISIBLE.sub("", _LINE_END.sub("\n", text)))
    text = "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).split("\n"))
    return _EMPTY_LINES.sub("\n\n", text).strip("\n")


def words_of(text: str) -> list[str]:
    """Return what white space parts; every Chinese character and Japanese kana is a word by itself."""
    return _WORD.findall(text) if has_characters_as_words(text) else text.split()


def has_characters_as_words(text: str) -> bool:
    """Tell whether a text holds Chinese characters or kana."""
    return not text.isascii() and bool(_CHARACTER_WORD.search(text))


_LINE_END = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_EMPTY_LINES = re.compile(r"\n{3,}")
_CHARACTER_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|[^\\s\u3040-\u30ff\u3400-\u9fff]+")
