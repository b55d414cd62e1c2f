"""The right to build one artifact, among machines that share a remote store and nothing else."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from storage.errors import RemoteFailed, StoreBusy
from storage.manifest import Record
from storage.objects import Objects

LEASE_SECONDS, LOOK_SECONDS = 90.0, 3.0
"""How long a machine that is gone keeps others waiting, and how often they look."""


class Lease(Record):
    """Who builds, and until when, in seconds of the epoch, unless it is renewed."""

    holder: str
    until: float

    def keeps_out(self, holder: str) -> bool:
        return self.holder != holder and self.until > time.time()


@contextmanager
def leased(objects: Objects, folder: str, holder: str) -> Iterator[None]:
    """Hold the lease of a folder and renew it; one that is not renewed any more is waited out.

    Raises StoreBusy when another holder is alive. Where a file system has no exclusive put, or clocks differ by more
    than a lease, two may hold it: both build the same, and the first manifest counts.
    """
    name, ended = _take(objects, folder, holder), threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_SECONDS / 4):
            with suppress(RemoteFailed):  # the next time, or it lapses
                objects.put(name, _signed(holder))

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        objects.forget(name)


def _take(objects: Objects, folder: str, holder: str) -> str:
    """Put the lease with the next number; of those who try, one can."""
    number, lease = _last(objects, folder)
    while lease and lease.keeps_out(holder):
        time.sleep(LOOK_SECONDS)
        seen = lease
        number, lease = _last(objects, folder)
        if lease and lease != seen and lease.keeps_out(holder):
            raise _busy(objects, folder, lease)
    name = f"{folder}/lease-{number + 1:06d}.json"
    if not objects.create(name, _signed(holder)):
        raise _busy(objects, folder, _last(objects, folder)[1])
    return name


def _last(objects: Objects, folder: str) -> tuple[int, Lease | None]:
    found = objects.names(f"{folder}/lease-*.json")
    if not found:
        return 0, None
    text = objects.read(found[-1])  # None when it was given back just now
    return int(PurePosixPath(found[-1]).stem[6:]), Lease.model_validate_json(text) if text else None


def _busy(objects: Objects, folder: str, lease: Lease | None) -> StoreBusy:
    holder = lease.holder if lease else "another machine"
    return StoreBusy(
        f"{objects.url}/{folder}: {holder} builds it. Wait for it, or stop that and run again: work resumes."
    )


def _signed(holder: str) -> bytes:
    return Lease(holder=holder, until=time.time() + LEASE_SECONDS).model_dump_json().encode()
