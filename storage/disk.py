"""Bytes on disk: whole-file replacement, locks, content digests, and full disks called by their name."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from storage.errors import DiskFull, SourceError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; what is written there replaces `path` whole once it is on disk, or never."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with naming_full_disk(path):
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all. Raises DiskFull."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(lock: IO[str], **about: str) -> dict[str, str] | None:
    """Lock an open file until it is closed and sign it; return the holder's signature when another has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder: dict[str, str] = dict.fromkeys(("pid", "host", "started"), "unknown")
        with suppress(ValueError):  # not signed yet
            holder |= json.loads(lock.read())
        return holder
    started = datetime.now(UTC).isoformat(timespec="seconds")
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started, **about}, lock)
    lock.flush()
    return None


def content_digest(source: Path | bytes) -> str:
    """SHA-256 in hex of a raw input, read in pieces. Raises SourceError when the file cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(
            f"Cannot read {source}: {error.strerror}. Check the path and its permissions."
        ) from error


def require_free_space(path: Path, needed_bytes: int) -> None:
    """Raise DiskFull now rather than hours into the work. `path` need not exist yet."""
    free = _free_bytes(path)
    if free < needed_bytes:
        shortage = f"{path} needs {needed_bytes:,} bytes and has {free:,} free."
        raise DiskFull(f"{shortage} Free some space or use another disk.")


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into DiskFull; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shortage = f"No space left for {path} ({_free_bytes(path):,} bytes free)."
        raise DiskFull(f"{shortage} Free some space and run again: finished work is kept.") from error


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
