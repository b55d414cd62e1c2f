"""What ranks leave in a stage's directory for the parent: a sign of life, and notes of a bad end."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage.disk import atomic_write

HEARTBEAT = "heartbeat.json"
NOTES, STACKS = "failure-rank-*.json", "stack-rank-*.txt"
LOG_CHARACTERS, STACK_CHARACTERS = 4000, 6000
LOST = ("gloo", "NCCL", "DistBackendError", "DistNetworkError")
"""What errors of collectives are known by: they follow from another rank's end."""


def beat(directory: Path, **told: float) -> None:
    """Leave a sign of life for whoever watches from outside: its age is the time since a step."""
    atomic_write(directory / HEARTBEAT, json.dumps({**told, "at": time.time()}).encode())


@contextmanager
def noted(directory: Path, rank: int) -> Iterator[None]:
    """Leave a note of an error on its way out."""
    try:
        yield
    except Exception as error:
        note = {"rank": rank, "host": socket.gethostname(), "at": time.time(), "message": str(error)}
        with suppress(OSError):  # a full disk must not hide what it broke
            path = directory / NOTES.replace("*", str(rank))
            path.write_text(json.dumps({**note, "kind": type(error).__name__}))
        raise


def forget(directory: Path) -> None:
    """Remove what an earlier try left."""
    for pattern in (NOTES, STACKS):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def stopped(directory: Path) -> str:
    """Return what a rank said that saved after SIGTERM; nothing when none did."""
    return next((note["message"] for note in _notes(directory) if note["kind"] == "Stopped"), "")


def told(directory: Path) -> str:
    """Return the first rank's error and the stacks of those that made no step; nothing when none left any."""
    notes = _notes(directory)
    own = [note for note in notes if not any(word in note["kind"] + note["message"] for word in LOST)]
    stacks = [text for path in sorted(directory.glob(STACKS)) if "Timeout" in (text := path.read_text())]
    lines = [
        *(f"{note['kind']} of rank {note['rank']} on {note['host']}: {note['message']}" for note in own[:1]),
        *(text[:STACK_CHARACTERS].rstrip() for text in stacks),
    ]
    if notes and not lines:
        first = notes[0]
        lines.append(
            f"Rank {first['rank']} on {first['host']} lost the connection to another rank, which has ended or cannot "
            f"be reached: {first['message']}"
        )
    return "\n".join(lines)


def last_lines(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_CHARACTERS:] if log.exists() else "(it wrote nothing)"


def _notes(directory: Path) -> list[dict[str, Any]]:
    """Return all notes, the earliest first; one that was cut short is passed over."""
    notes = []
    for path in directory.glob(NOTES):
        with suppress(ValueError):
            notes.append(json.loads(path.read_text()))
    return sorted(notes, key=lambda note: note["at"])
