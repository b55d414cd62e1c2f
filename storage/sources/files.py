"""A user's own dialogs: a .jsonl file of {"messages": [...]}, where the first bad line is an error, not a loss."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources.documents import Unreadable
from storage.sources.lines import json_object


def read_dialogs(file: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield (place, messages) of every line {"messages": [...]}. Raises SourceError naming the line."""
    if not file.is_file():
        raise SourceError(f"{file}: no such file")
    count = 0
    for place, row in numbered(file, json_object):
        count += 1
        yield place, _messages(place, row)
    if not count:
        raise SourceError(f"{file}: every line is blank; give a file that holds dialogs")


def _messages(place: str, row: dict[str, Any]) -> list[Any]:
    if not isinstance(row.get("messages"), list):
        raise SourceError(
            f'{place}: no list named "messages"; a line looks like {{"messages": [{{"role": "user", '
            '"content": "..."}, {"role": "assistant", "content": "..."}]}'
        )
    return row["messages"]


def numbered(file: Path, parse: Callable[[bytes, int], Any]) -> Iterator[tuple[str, Any]]:
    """Yield (place, what `parse` makes of a line and its offset), but for None. Raises SourceError naming the line."""
    offset = 0
    with file.open("rb") as content:
        for number, line in enumerate(content, start=1):
            place = f"{file.name}:{number}"
            try:
                found = parse(line, offset)
            except Unreadable as error:
                raise SourceError(f"{place}: {error}") from None
            offset += len(line)
            if found is not None:
                yield place, found
