"""Formats that are read line by line: .jsonl, .csv, and .txt, which is one document or cut into passages."""

import codecs
import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from storage.sources.documents import Fields, Part, Quarantined, RawDocument, Unreadable, decode

SKIP_BYTES = 1 << 20


def lines(stream: BinaryIO, part: Part, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the lines that begin in the part; of a longer one its first max_bytes + 1 bytes."""
    offset = part.start
    if part.start:
        stream.seek(part.start - 1)  # where the line before ends, if one ends just there
        offset = _next_line(stream, part.start - 1, part.end)
    while part.end is None or offset < part.end:
        line = stream.readline(max_bytes + 1)
        if not line:
            return
        yield offset, line
        offset += len(line)
        if not line.endswith(b"\n"):
            offset = _next_line(stream, offset, part.end)


def _next_line(stream: BinaryIO, offset: int, end: int | None) -> int:
    """Skip to the beginning of the next line, or past the end; return where that is."""
    while end is None or offset < end:
        piece = stream.readline(SKIP_BYTES)
        offset += len(piece)
        if not piece or piece.endswith(b"\n"):
            break
    return offset


def read_text(part: Part, stream: BinaryIO, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    """Yield the file as one document, unless it is blank; or its passages."""
    if fields.passage_words:
        yield from _passages(part, stream, fields, fields.passage_words)
        return
    data = stream.read(fields.max_bytes + 1)
    if data.strip():
        yield fields.document(part.name, {fields.text: data})


def _passages(
    part: Part, stream: BinaryIO, fields: Fields, words: int
) -> Iterator[RawDocument | Quarantined]:
    """Cut at the first blank line after so many words, or the first line's end after twice as many.

    A passage's id ends in the byte at which it begins.
    """
    held, count, end = bytearray(), 0, 0
    for offset, line in lines(stream, part, fields.max_bytes):
        held += line
        end = offset + len(line)
        count += len(line.split())
        if count >= 2 * words or (count >= words and not line.strip()):
            yield fields.document(f"{part.name}:{end - len(held)}", {fields.text: bytes(held)})
            held, count = bytearray(), 0
    if held.strip():
        yield fields.document(f"{part.name}:{end - len(held)}", {fields.text: bytes(held)})


def read_json_lines(part: Part, stream: BinaryIO, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    """Yield a document a line; its id ends in the byte of the decompressed file at which the line begins.

    `tail -c +$((byte + 1)) file | head -n 1` shows it. The detail has the line's number if the part begins the file.
    """
    for number, (offset, line) in enumerate(lines(stream, part, fields.max_bytes), start=1):
        place, where = f"{part.name}:{offset}", "" if part.start else f"line {number}: "
        try:
            if len(line) > fields.max_bytes:
                raise Unreadable(
                    "too long", f"more than {fields.max_bytes:,} bytes; split or drop it", line[:200]
                )
            row = json_object(line, offset)
            if row is not None:
                yield fields.document(place, row, where)
        except Unreadable as error:
            yield error.at(place, where)


def json_object(line: bytes, offset: int) -> dict[str, Any] | None:
    """Return a line's object, None for a blank line. Raises Unreadable."""
    text = decode(line, offset)
    if not text or text.isspace():
        return None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        detail = f"not JSON ({error.msg}, character {error.pos}); a line holds one object"
        raise Unreadable("malformed", detail, line[:200]) from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets without end
        raise Unreadable("malformed", f"not JSON that can be read ({error})", line[:200]) from None
    if not isinstance(row, dict):
        raise Unreadable("malformed", "not an object; a line holds one object", line[:200])
    return row


def read_csv(part: Part, stream: BinaryIO, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    """Yield a document a row below the header; its id ends in the row's number, from 0, blank rows not counted.

    The limit holds for a line and for a cell: an unclosed quote costs the rows up to the limit.
    """
    before = csv.field_size_limit(fields.max_bytes)  # of the whole process: Python keeps no other
    try:
        yield from _csv_documents(part, stream, fields)
    finally:
        csv.field_size_limit(before)


def _csv_documents(part: Part, stream: BinaryIO, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    long_lines: list[int] = []
    reader = csv.reader(_csv_lines(part, stream, fields, long_lines), strict=True)
    rows = _csv_rows(reader, long_lines)
    header = next(rows, [])
    if isinstance(header, Unreadable):
        yield header.at(part.name, "the header: ")
        return
    for number, row in enumerate(rows):
        place, where = f"{part.name}:{number}", f"line {reader.line_num}: "
        if isinstance(row, Unreadable):
            yield row.at(place, where)
        elif len(row) != len(header):
            detail = f"{len(row)} cells below {len(header)} columns"
            yield Unreadable("malformed", detail, ",".join(row)).at(place, where)
        else:
            yield fields.document(place, dict(zip(header, row, strict=True)), where)


def _csv_rows(reader: Iterator[list[str]], long_lines: list[int]) -> Iterator[list[str] | Unreadable]:
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = "too long" if long_lines else "malformed"
            yield Unreadable(reason, f"{error}; keep to RFC 4180 and below the limit of a line")
            long_lines.clear()
        else:
            if row is None:
                return
            if row:
                yield row


def _csv_lines(part: Part, stream: BinaryIO, fields: Fields, long_lines: list[int]) -> Iterator[str]:
    """Yield decoded lines; bytes that are not UTF-8 become surrogates, which make their own cell unreadable."""
    for offset, line in lines(stream, part, fields.max_bytes):
        if len(line) > fields.max_bytes:
            long_lines.append(offset)
            yield '"x"y\n'  # csv refuses it, inside quotes and out
        else:
            mark = codecs.BOM_UTF8 if offset == 0 else b""
            yield line.removeprefix(mark).decode("utf-8", "surrogateescape")
