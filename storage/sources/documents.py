"""What the readers of sources yield: a document, or a place that could not be read and why."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MAX_BYTES = 64 << 20
"""Default limit of one line, and of one document."""
DETAIL_CHARACTERS, EXCERPT_CHARACTERS = 200, 80

Reason = Literal["not UTF-8", "malformed", "no text", "too long", "damaged", "empty"]
"""malformed: no JSON object, no whole CSV row; no text: the field is absent or no string; damaged: a file, row group
or record that ends early or does not decode; empty: a file without a document."""


@dataclass(frozen=True)
class RawDocument:
    """A document as its source has it; the id is unique within the source, and the same however it is cut."""

    id: str
    text: str
    url: str = ""


@dataclass(frozen=True)
class Quarantined:
    """Where a document could not be read; the detail says what was found there, in at most 200 characters."""

    place: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Part:
    """A stretch of one file that is read by itself: plain values, so that it travels as JSON.

    `file` opens it (a path or URL), ids begin with `name`. `start` and `end` are bytes of a .jsonl, row groups of
    a .parquet, shards of a hub's dataset; without an end it goes to the last. `size` is about its bytes,
    0 where unknown.
    """

    file: str
    name: str
    start: int = 0
    end: int | None = None
    size: int = 0


class Unreadable(Exception):
    """Why bytes are no document: Quarantined where a source is surveyed, a SourceError where it is taken whole."""

    def __init__(self, reason: Reason, detail: str, excerpt: str | bytes = ""):
        text = excerpt.decode(errors="replace") if isinstance(excerpt, bytes) else excerpt
        super().__init__(f"{detail}: {text.strip()[:EXCERPT_CHARACTERS]!r}" if text else detail)
        self.reason: Reason = reason

    def at(self, place: str, where: str = "") -> Quarantined:
        """Return it as a quarantined place; `where` says more of the place and comes first."""
        detail = f"{where}{self}".encode(errors="backslashreplace").decode()
        return Quarantined(place, self.reason, detail[:DETAIL_CHARACTERS])


@dataclass(frozen=True)
class Fields:
    """What the fields of a row are called, how long its text may be, and how many words of a .txt are a document."""

    text: str = "text"
    url: str = "url"
    max_bytes: int = MAX_BYTES
    passage_words: int | None = None

    def document(self, place: str, row: Mapping[str, Any], where: str = "") -> RawDocument | Quarantined:
        """Return the row's document; text may be bytes. A url that is no string counts as none."""
        try:
            return RawDocument(place, self._text(row), _storable(row.get(self.url)) or "")
        except Unreadable as error:
            return error.at(place, where)

    def _text(self, row: Mapping[str, Any]) -> str:
        value = row.get(self.text)
        if not isinstance(value, str | bytes):
            fields = ", ".join(f'"{name}"' for name in row if name is not None)
            raise Unreadable("no text", f'no string named "{self.text}"; the fields are {fields or "none"}')
        if len(value) > self.max_bytes:
            raise Unreadable(
                "too long", f"more than {self.max_bytes:,} bytes; split it or raise the limit", value
            )
        text = decode(value) if isinstance(value, bytes) else _storable(value)
        if text is None:
            raise Unreadable("not UTF-8", "a stray byte or half a surrogate pair", value)
        return text


def decode(data: bytes, offset: int = 0) -> str:
    """Decode UTF-8, without its mark; `offset` is where the data begin in their file. Raises Unreadable."""
    content = data.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise Unreadable(
            "not UTF-8",
            f"byte {offset + len(data) - len(content) + error.start} (0x{content[error.start]:02x}) is not UTF-8; "
            f"if the file is {encoding}, convert it with: iconv -f {encoding} -t UTF-8",
            content[max(0, error.start - EXCERPT_CHARACTERS // 2) :][:EXCERPT_CHARACTERS],
        ) from None


def _storable(value: object) -> str | None:
    """Return a text that UTF-8 can hold: lone surrogates come from JSON escapes and from stray bytes in a CSV."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        return value if isinstance(value, str) and (value.isascii() or value.encode()) else None
    except UnicodeError:
        return None
