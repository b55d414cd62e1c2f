"""A document, what a step of the corpus stage answers about it, and the one normal form of text."""

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


@dataclass(frozen=True)
class Drop:
    """Why a document leaves: `reason` is one of few, for counting; `detail` is this document's numbers."""

    reason: str
    detail: str


Verdict = Document | Drop
"""A step answers each document with itself (kept), an altered copy (changed) or a Drop."""


def normalise(text: str) -> str:
    """Return NFC text with \\n line ends, no control characters, at most one empty line in a row."""
    text = unicodedata.normalize("NFC", text)
    text = _LINE_END.sub("\n", text)
    text = _INVISIBLE.sub("", text)
    text = _LONE_SURROGATE.sub("\ufffd", text)
    text = _TRAILING_SPACE.sub("", text)
    return _EMPTY_LINES.sub("\n\n", text).strip("\n")


_LINE_END = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TRAILING_SPACE = re.compile(r"[^\S\n]+$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")
