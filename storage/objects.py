"""Files on any file system that fsspec knows: put whole or not at all, tried again, checked.

Credentials are fsspec's business, as in `sources/places.py`, and no URL may hold any.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from storage.disk import content_digest
from storage.errors import CorruptArtifact, RemoteFailed, StorageError
from storage.manifest import FileRecord
from storage.sources.places import file_system

ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
"""File systems on which a put is seen whole or not at all; elsewhere a rename makes it so."""
PAUSES = (1.0, 3.0, 9.0)
"""Seconds between tries."""
TRANSFERS = 8
"""Files on their way at once."""

Made = TypeVar("Made")


class Objects:
    """What lies below one URL. Names are relative to it; RemoteFailed comes when all tries have failed."""

    def __init__(self, url: str) -> None:
        """Raises SourceError for a URL that fsspec does not know, MissingPackage for its driver."""
        self.url = url.rstrip("/")
        self._fs, root = file_system(self.url)
        self._root = root.rstrip("/")
        protocol = self._fs.protocol
        self._atomic = not ATOMIC.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None where there is none."""

        def read() -> bytes | None:
            with suppress(FileNotFoundError):
                return self._fs.cat_file(f"{self._root}/{name}")
            return None

        return self._insist(read)

    def put(self, name: str, source: Path | bytes) -> None:
        """Put a file, in place of another if there is one."""
        self._insist(lambda: self._put(name, source))

    def create(self, name: str, data: bytes) -> bool:
        """Put bytes where there are none; tell whether they are there now, for a lost answer may have been a yes."""

        def create() -> bool:
            try:
                if self._atomic:
                    self._fs.pipe_file(f"{self._root}/{name}", data, mode="create")
                elif self.read(name) is None:
                    self._put(name, data)
            except Exception:
                if self.read(name) is None:
                    raise
            return self.read(name) == data

        return self._insist(create)

    def names(self, pattern: str) -> list[str]:
        """Return the names that match, in order."""

        def names() -> list[str]:
            self._fs.invalidate_cache()
            return sorted(
                path.removeprefix(f"{self._root}/") for path in self._fs.glob(f"{self._root}/{pattern}")
            )

        return self._insist(names)

    def forget(self, name: str) -> None:
        """Remove a file or folder, if that can be done: what stays does no harm."""
        with suppress(Exception):
            self._fs.rm(f"{self._root}/{name}", recursive=True)

    def upload(self, folder: str, directory: Path, files: Mapping[str, FileRecord]) -> None:
        """Put files that are not there yet below their SHA-256, each hashed before and measured after.

        Raises CorruptArtifact when one is no longer what its record says.
        """

        def send(name: str, record: FileRecord) -> None:
            path, target = directory / name, f"{folder}/{record.sha256}"
            if self._size(target) == record.bytes:
                return
            if content_digest(path) != record.sha256:
                raise CorruptArtifact(
                    f"{path} has changed since it was committed. Remove it and build it again."
                )
            self._put(target, path)
            if (size := self._size(target)) != record.bytes:
                raise OSError(f"{size} of {record.bytes} bytes of {name} arrived")

        self._each(send, files)

    def download(self, folder: str, directory: Path, files: Mapping[str, FileRecord]) -> None:
        """Get what `upload` has put, each checked by its SHA-256; what an earlier try has brought stays."""

        def get(name: str, record: FileRecord) -> None:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or content_digest(path) != record.sha256:
                self._fs.get_file(f"{self._root}/{folder}/{record.sha256}", str(path))
                if content_digest(path) != record.sha256:
                    raise OSError(f"{folder}: what was got for {name} is not what was put")

        self._each(get, files)

    def _each(self, action: Callable[[str, FileRecord], None], files: Mapping[str, FileRecord]) -> None:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda item: self._insist(lambda: action(*item)), files.items()))

    def _put(self, name: str, source: Path | bytes) -> None:
        path = f"{self._root}/{name}"
        target = path if self._atomic else f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        if not self._atomic:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if isinstance(source, bytes):
            self._fs.pipe_file(target, source)
        else:
            self._fs.put_file(str(source), target)
        if target != path:
            self._fs.mv(target, path)

    def _size(self, name: str) -> int:
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):
            return self._fs.info(f"{self._root}/{name}")["size"]
        return -1

    def _insist(self, action: Callable[[], Made]) -> Made:
        """Do what may be done again, until it succeeds; drivers raise what they like, what we raise passes."""
        for pause in (*PAUSES, 0.0):
            try:
                return action()
            except StorageError:
                raise
            except Exception as error:
                if pause and not isinstance(error, PermissionError):
                    time.sleep(pause)
                    continue
                raise RemoteFailed(
                    f"{self.url}: {type(error).__name__}: {error}. Check network, bucket and credentials, and run "
                    "again: what is committed here stays, and is sent then."
                ) from error
        raise AssertionError("the last try returns or raises")


def require_inside(files: Mapping[str, FileRecord]) -> None:
    """Raise ValueError for a name that leads out of its folder."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name} is outside")
