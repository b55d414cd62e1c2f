"""A source in parts: the plan, which depends on the files alone, and the documents of each part."""

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from storage.sources import hub
from storage.sources.documents import MAX_BYTES, Fields, Part, Quarantined, RawDocument, Unreadable
from storage.sources.lines import read_csv, read_json_lines, read_text
from storage.sources.parquet import read_rows, row_group_cuts
from storage.sources.places import Found, find_files, format_of, is_damage, is_http, open_bytes
from storage.sources.warc import read_pages

PART_BYTES = 64 << 20

READERS: dict[str, Callable[[Part, BinaryIO, Fields], Iterator[RawDocument | Quarantined]]] = {
    "txt": read_text,
    "jsonl": read_json_lines,
    "csv": read_csv,
    "parquet": read_rows,
    "warc": read_pages,
}


def parts(paths: Sequence[str], part_bytes: int = PART_BYTES) -> list[Part]:
    """Plan a source of files: large plain .jsonl is cut by bytes, .parquet by row groups, others are one part.

    Paths are as in `places.find_files`, which says what is raised; `hub.parts` plans a dataset of the hub. Documents
    and ids do not depend on part_bytes.
    """
    plan: list[Part] = []
    for name, found in find_files(paths).items():
        cuts = _cuts(found, part_bytes)
        ends = [start for start, _ in cuts[1:]] + [None]
        plan += [
            Part(found.file, name, start, end, size) for (start, size), end in zip(cuts, ends, strict=True)
        ]
    return plan


def _cuts(found: Found, part_bytes: int) -> list[tuple[int, int]]:
    """Return (start, size in bytes) of each part."""
    file, size = found
    match format_of(file):
        case ("jsonl", "") if size > part_bytes and not is_http(file):
            return [(start, min(part_bytes, size - start)) for start in range(0, size, part_bytes)]
        case ("parquet", "") if size > part_bytes:
            return row_group_cuts(file, part_bytes)
        case _:
            return [(0, size)]


def read(
    part: Part,
    *,
    text_field: str = "text",
    url_field: str = "url",
    max_bytes: int = MAX_BYTES,
    passage_words: int | None = None,
) -> Iterator[RawDocument | Quarantined]:
    """Yield the documents of a part, and each place where one could not be read, in their order.

    Dirt never raises. SourceError is for a file that is gone; the errors of disks and networks pass, for a retry.
    Memory is a few times max_bytes at most, or a row of a .parquet, whatever else the file holds.
    """
    fields, count = Fields(text_field, url_field, max_bytes, passage_words), 0
    try:
        for item in _items(part, fields):
            count += 1
            yield item
    except Exception as error:
        if not is_damage(error):
            raise
        yield Unreadable("damaged", f"the file is left after {count:,} documents: {error}").at(part.name)
        return
    if not count and part.start == 0 and part.end is None:
        yield Unreadable("empty", "the file holds no document").at(part.name)


def _items(part: Part, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    if part.file.startswith(hub.SCHEME):
        yield from hub.read(part, fields)
    else:
        with open_bytes(part.file) as stream:
            yield from READERS[format_of(part.file)[0]](part, stream, fields)
