"""Files of comparisons into the log's folder, whole or not at all, and out of it.

An import is one file beside the log, named by its content, that appears when every line was checked: it needs no
writer's lock, and bringing the same file twice is once.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.disk import atomic_path, content_digest
from storage.errors import SourceError
from storage.preference_events import AnnotatorKind, Comparison, Domain, Lengths, Undo, in_words
from storage.preference_formats import FORMATS, READERS, BadField, Format, detect, write_row
from storage.preference_log import IMPORTS, parse_line, read_events


@dataclass(frozen=True)
class BadLine:
    """A line that is no comparison."""

    place: str
    """file:line"""
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.field}: {self.reason}"


@dataclass(frozen=True)
class Imported:
    comparisons: int
    bad: list[BadLine]
    path: Path
    format: Format
    already_there: bool = False


def import_file(
    folder: Path,
    path: Path,
    batch: str,
    domain: Domain,
    form: Format | None = None,
    skip_bad: bool = False,
    measure: Callable[[Comparison], Lengths] = in_words,
) -> Imported:
    """Check every line of a file, then add all its comparisons, or those that are right with `skip_bad`.

    Raises SourceError with every bad line when there is one and `skip_bad` is not given; nothing is imported then.
    """
    digest = content_digest(path)
    target = folder / IMPORTS / f"{digest[:16]}.jsonl"
    form = form or _detected(path)
    if target.exists():
        return Imported(sum(1 for _ in target.open("rb")), [], target, form, already_there=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    bad: list[BadLine] = []
    count = 0
    with atomic_path(target) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            for found in check(path, form, digest[:16], batch, domain):
                if isinstance(found, BadLine):
                    bad.append(found)
                else:
                    measured = found.model_copy(update={"lengths": measure(found)})
                    file.write(measured.model_dump_json() + "\n")
                    count += 1
        if not count or (bad and not skip_bad):
            listed = "\n".join(map(str, bad)) or f"{path}: holds no comparison"
            raise SourceError(
                f"{listed}\nNothing was imported: {len(bad):,} bad and {count:,} good lines of {form}. "
                "Correct them, or import the good ones with --skip-bad."
            )
    return Imported(count, bad, target, form)


def check(path: Path, form: Format, name: str, batch: str, domain: Domain) -> Iterator[Comparison | BadLine]:
    """Yield the comparisons of a file, and each line that is none."""
    now = datetime.now(UTC)
    kind: AnnotatorKind = "import"
    for number, row in _rows(path):
        place = f"{path}:{number}"
        if isinstance(row, str):
            yield BadLine(place, "JSON", row)
            continue
        try:
            for index, choice in enumerate(READERS[form](row)):
                question = f"{name}-{number}"
                asked = next((turn.content for turn in choice.dialog if turn.role == "user"), "")
                facts: dict[str, Any] = {
                    "question": question,
                    "prompt_id": f"prompt-{sha256(asked.encode()).hexdigest()[:16]}",
                    "domain": domain,
                    "time": now,
                    **choice.known,
                }
                yield Comparison(
                    id=f"{question}-{index}",
                    batch=batch,
                    annotator=choice.annotator,
                    dialog=choice.dialog,
                    responses=choice.responses,
                    chosen=choice.chosen,
                    grade=choice.grade,
                    annotator_kind=kind,
                    **facts,
                )
        except BadField as error:
            yield BadLine(place, error.name, error.reason)
        except ValidationError as error:
            for fault in error.errors():
                reason = fault["msg"].removeprefix("Value error, ")
                where = ".".join(map(str, fault["loc"])) or reason.split(":")[0]
                yield BadLine(place, where, reason.removeprefix(f"{where}: "))


def export(folder: Path, path: Path, form: Format, batches: tuple[str, ...] = ()) -> int:
    """Write the comparisons of batches (all, when none is named) that were not undone; return how many."""
    count = 0
    undone = {(event.id, event.annotator) for event in read_events(folder) if isinstance(event, Undo)}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for comparison in comparisons(folder):
            if (comparison.id, comparison.annotator) in undone or (
                batches and comparison.batch not in batches
            ):
                continue
            file.write(json.dumps(write_row(comparison, form), ensure_ascii=False) + "\n")
            count += 1
    return count


def comparisons(folder: Path) -> Iterator[Comparison]:
    """Yield the comparisons of the log, those undone too, and of all imports."""
    yield from (event for event in read_events(folder) if isinstance(event, Comparison))
    for path in sorted((folder / IMPORTS).glob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                event = parse_line(line, path, number)
                if isinstance(event, Comparison):
                    yield event


def _detected(path: Path) -> Format:
    first = next((row for _, row in _rows(path)), None)
    form = detect(first) if isinstance(first, dict) else None
    if form is None:
        raise SourceError(
            f"{path}:1: its format cannot be told from its first row. Say which with --format: {', '.join(FORMATS)}."
        )
    return form


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, row) of a .jsonl or of a .json that is one array, both also .gz; a text says what is wrong."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                yield from _array(file.read())
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(line)
    except (OSError, EOFError) as error:
        raise SourceError(
            f"{path} cannot be read: {error}. Check the path, or copy the file again."
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8: {error}. Convert it first.") from error


def _object(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"cannot be read ({error})"
    return row if isinstance(row, dict) else "is not an object"


def _array(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    decoder, at, line, seen = json.JSONDecoder(), 0, 1, 0
    blank_or_comma = " \t\r\n,["
    while True:
        while at < len(text) and text[at] in blank_or_comma:
            at += 1
        if at == len(text) or text[at] == "]":
            return
        line, seen = line + text.count("\n", seen, at), at
        with suppress(RecursionError):
            try:
                row, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                yield line, f"cannot be read ({error.msg})"
                return
            yield line, row if isinstance(row, dict) else "is not an object"
            continue
        yield line, "cannot be read (nested too deeply)"
        return
