"""A stage's metrics as JSON lines: appended by the worker, tailed by its parent."""

import json
import os
from pathlib import Path
from typing import Any

from storage.disk import atomic_write, naming_full_disk

Row = dict[str, Any]


class MetricLog:
    """Appends rows with a "step"; on opening, drops a torn last line and rows after the step resumed from."""

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step]
        atomic_write(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._path = path
        self._file = path.open("a")

    def append(self, row: Row) -> None:
        """Write one row through to the file. Raises DiskFull."""
        with naming_full_disk(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()


def read_metrics(path: Path) -> list[Row]:
    """Return the complete rows of a log; none when there is no log, a torn last line is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Tail:
    """Follows a log that grows, and may be cut back when its writer resumes; rows up to `seen_step` are old news."""

    def __init__(self, path: Path, seen_step: int = 0) -> None:
        self.path = path
        self._seen_step = seen_step
        self._inode = self._read = 0

    def new_rows(self) -> list[Row]:
        """Return complete rows with a step not yet returned; only what is new of the file is read."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            now = os.fstat(file.fileno())
            if now.st_ino != self._inode or now.st_size < self._read:  # replaced by a writer that resumed
                self._inode, self._read = now.st_ino, 0
            file.seek(self._read)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        rows = [row for row in map(json.loads, complete.splitlines()) if row["step"] > self._seen_step]
        self._seen_step = max((row["step"] for row in rows), default=self._seen_step)
        return rows
