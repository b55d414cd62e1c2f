"""The log of annotations: appended to by one writer, on the disk before an annotator is told so, read by anyone.

    <home>/preferences/log.jsonl        an event a line
    <home>/preferences/writer.lock      held (flock) by the process that writes
    <home>/preferences/torn/            what a killed writer left of its last line
    <home>/preferences/imports/         comparisons made elsewhere, a file an import, as the log
    <home>/preferences/preferences.duckdb   derived from all of it, see preference_index

Each line begins with its event and id, so ids are found without parsing the texts.
"""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from storage.disk import atomic_write, naming_full_disk, sync, take_lock
from storage.errors import StorageError, StoreBusy
from storage.preference_events import (
    EVENT,
    Asked,
    BatchFrozen,
    BatchOpened,
    Comparison,
    Event,
    Rating,
    Skip,
    Undo,
    in_words,
)

LOG, LOCK, TORN, IMPORTS = "log.jsonl", "writer.lock", "torn", "imports"
HEAD = re.compile(rb'\{"event":"comparison","id":"([^"]+)","batch":"([^"]+)","annotator":"([^"]+)",')


@dataclass(frozen=True)
class Batch:
    """How far a batch is; comparisons (or ratings) that were undone do not count."""

    name: str
    target: int
    frozen: bool
    comparisons: int


@dataclass
class _Waiting:
    """A line on its way to the disk."""

    event: Event
    line: bytes
    done: bool = False
    error: BaseException | None = None


class _Known:
    """What the log holds, as far as a writer must know: a hash of each id, about 80 bytes, and the batches."""

    def __init__(self) -> None:
        self.ids: dict[int, tuple[str, str] | None] = {}
        """With batch and annotator of a comparison or rating that can be undone."""
        self.targets: dict[str, int] = {}
        self.frozen: set[str] = set()
        self.counts: Counter[str] = Counter()
        """Comparisons by batch, those undone left out."""
        self._makers: dict[tuple[str, str], tuple[str, str]] = {}

    def made(self, name: str, batch: str, annotator: str, event: str = "comparison") -> None:
        maker = batch, annotator
        self.ids[_hash(event, name)] = self._makers.setdefault(maker, maker)
        self.counts[batch] += 1

    def add(self, event: Event) -> None:
        if isinstance(event, Comparison | Rating):
            return self.made(event.id, event.batch, event.annotator, event.event)
        self.ids[_hash(event.event, event.id)] = None
        match event:
            case Undo():
                maker = self.maker(event.id)
                self.ids |= dict.fromkeys(self._keys(event.id) & self.ids.keys())
                self.counts[maker[0] if maker else ""] -= 1
            case BatchOpened():
                self.targets[event.id] = event.target
            case BatchFrozen():
                self.frozen.add(event.id)

    def maker(self, name: str) -> tuple[str, str] | None:
        """Return batch and annotator of a comparison or rating that can be undone."""
        maker = next(filter(None, map(self.ids.get, self._keys(name))), None)
        return maker if maker and maker[0] not in self.frozen else None

    def _keys(self, name: str) -> set[int]:
        return {_hash("comparison", name), _hash("rating", name)}


class PreferenceLog:
    """The writer. Raises StoreBusy when there is one already; use it in `with`, or `close` it.

    `append` may be called from many threads: those that wait at once share one fsync.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOG
        with naming_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._holder = _hold(folder / LOCK)
            try:
                self.healed = heal(self.path)
                """Where the torn end of the log was moved to, if it had one."""
                self._known = _scan(self.path)
                self._file = self.path.open("ab", buffering=0)
                sync(folder)
            except BaseException:
                self._holder.close()
                raise
        self._size = self.path.stat().st_size
        self._turn = threading.Condition(threading.RLock())
        self._waiting: dict[int, _Waiting] = {}
        self._flushing = False
        self.syncs = 0

    def append(self, event: Event) -> bool:
        """Return once the event is on the disk: True, or False when it was there before (a request sent twice).

        Raises StorageError for what cannot be added: to a frozen batch, an undo of what is not there.
        """
        key = _hash(event.event, event.id)
        with self._turn:
            if key in self._known.ids:
                return False
            waiting = self._waiting.get(key)
            fresh = waiting is None
            if waiting is None:
                self._check(event)
                waiting = self._waiting[key] = _Waiting(event, _line(event))
            while self._flushing and not waiting.done:
                self._turn.wait()
            leads = not waiting.done
            self._flushing |= leads
        if leads:
            self._flush()
        if waiting.error is not None:
            raise waiting.error
        return fresh

    def batches(self) -> list[Batch]:
        """Return every batch of the log in the order of their opening, or of their first comparison."""
        with self._turn:
            known = self._known
            return [
                Batch(name, known.targets.get(name, 0), name in known.frozen, known.counts[name])
                for name in dict.fromkeys([*known.targets, *known.counts])
            ]

    def open_batch(self) -> Batch | None:
        """Return the batch opened last, none when it is frozen or there is none."""
        opened = [batch for batch in self.batches() if batch.target]
        return opened[-1] if opened and not opened[-1].frozen else None

    def close(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: not self._flushing)
            self._file.close()
            self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _check(self, event: Event) -> None:
        waiting = [w.event for w in self._waiting.values()]
        frozen = self._known.frozen | {event.id for event in waiting if event.event == "frozen"}
        if isinstance(event, Comparison | Rating | Asked | Skip) and event.batch in frozen:
            raise StorageError(f"Batch {event.batch} is frozen: nothing can be added. Open another batch.")
        if isinstance(event, Undo):
            maker = self._known.maker(event.id)
            if not maker or maker[0] in frozen or maker[1] != event.annotator:
                raise StorageError(
                    f"{event.annotator} has nothing named {event.id} that can be undone: there is none, it is "
                    "another's, or its batch is frozen."
                )

    def _flush(self) -> None:
        """Write and sync what waits, in order; on an error nothing of it stays in the log."""
        with self._turn:
            batch = dict(self._waiting)
        try:
            with naming_full_disk(self.path):
                os.ftruncate(self._file.fileno(), self._size)
                written = b"".join(waiting.line for waiting in batch.values())
                left = memoryview(written)
                while left:
                    left = left[self._file.write(left) :]
                os.fsync(self._file.fileno())
            self._size += len(written)
            self.syncs += 1
            failed = None
        except BaseException as error:  # Ctrl-C too: others wait
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            failed = error
        with self._turn:
            for key, waiting in batch.items():
                del self._waiting[key]
                waiting.done, waiting.error = True, failed
                if failed is None:
                    self._known.add(waiting.event)
            self._flushing = False
            self._turn.notify_all()


def read_events(folder: Path, batch: str = "") -> Iterator[Event]:
    """Yield the log's events, oldest first, without its lock; a line that is being written is left out.

    With a batch, only events that name it or none. Raises StorageError naming the line that is no event.
    """
    path = folder / LOG
    if not path.exists():
        return
    wanted = f'"batch":"{batch}"'.encode()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            elsewhere = batch and wanted not in line and b'"batch":"' in line
            if line.endswith(b"\n") and not elsewhere:
                yield parse_line(line, path, number)


def read_ratings(folder: Path, batch: str) -> list[Rating]:
    """Return a batch's ratings, oldest first, without those that were undone."""
    kept: dict[str, Rating] = {}
    for event in read_events(folder, batch):
        match event:
            case Rating():
                kept[event.id] = event
            case Undo():
                kept.pop(event.id, None)
    return list(kept.values())


def parse_line(line: bytes, path: Path, number: int) -> Event:
    try:
        return EVENT.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StorageError(
            f"{path}:{number}: {where}: {first['msg']}. The log was changed from outside: restore that line."
        ) from error


def heal(path: Path) -> Path | None:
    """Move what follows the last line break to a file of its own; return where that is, none if nothing did."""
    whole = complete_bytes(path)
    if not path.exists() or whole == path.stat().st_size:
        return None
    with path.open("rb") as file:
        file.seek(whole)
        torn = file.read()
    (path.parent / TORN).mkdir(exist_ok=True)
    aside = path.parent / TORN / f"{whole}-{time.time_ns()}.jsonl"
    atomic_write(aside, torn)
    os.truncate(path, whole)
    sync(path)
    return aside


def complete_bytes(path: Path) -> int:
    """Return where the last complete line of a file ends; 0 when there is none, or no file."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _scan(path: Path) -> _Known:
    """Read what a writer must know; of comparisons in frozen batches only the ids are kept."""
    known = _Known()
    if not path.exists():
        return known
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            head = HEAD.match(line)
            if head:
                known.made(*(text.decode() for text in head.groups()))
            else:
                known.add(parse_line(line, path, number))
    return known


def _line(event: Event) -> bytes:
    if isinstance(event, Comparison) and event.lengths is None:
        event = event.model_copy(update={"lengths": in_words(event)})
    return event.model_dump_json().encode() + b"\n"


def _hash(event: str, name: str) -> int:
    return int.from_bytes(blake2b(f"{event} {name}".encode(), digest_size=8).digest())


def _hold(path: Path) -> IO[str]:
    """Lock the folder for this process. Raises StoreBusy with the other's signature."""
    lock = path.open("a+")
    holder = take_lock(lock)
    if holder is None:
        return lock
    lock.close()
    raise StoreBusy(
        f"{path.parent} is written by process {holder['pid']} on {holder['host']} since {holder['started']}. "
        "Comparisons have one writer: use its page, or stop it first."
    )
