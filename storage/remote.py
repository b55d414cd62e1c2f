"""Committed artifacts, and work in progress, on any file system that fsspec knows.

    <url>/<kind>/<digest>/manifest.json           put last, and once: from now on the artifact is there
    <url>/<kind>/<digest>/files/<sha256>          the bytes of its files, named by what they are
    <url>/.work/<kind>/<digest>/progress.json     what another machine goes on from; its files lie beside it likewise
    <url>/.work/<kind>/<digest>/lease-<n>.json    who builds it; the highest number counts

Bytes named by their content can be put again: machines that built one digest differently, or were killed, never write
over each other, and the first manifest is the one that counts.
"""

import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from storage.artifacts import Artifact, Store
from storage.disk import content_digest
from storage.errors import CorruptArtifact, RemoteFailed
from storage.lease import leased
from storage.manifest import MANIFEST, FileRecord, Manifest, Record
from storage.objects import Objects, require_inside

CHECKPOINTS, LOG, PROGRESS = "checkpoints", "worker.log", "progress.json"


class Progress(Record):
    """A stage's checkpoints and logs as they were at one moment."""

    files: dict[str, FileRecord]


class Remote:
    """A store that several machines share. Raises RemoteFailed when it does not do what it is asked."""

    def __init__(self, url: str) -> None:
        """Raises SourceError for a URL that fsspec does not know, MissingPackage for its driver."""
        self._objects = Objects(url)

    def push(self, artifact: Artifact) -> None:
        """Send an artifact unless it is there: its files and, when all have arrived, its manifest.

        Raises CorruptArtifact when a file is no longer what was committed.
        """
        folder, log = f"{artifact.kind}/{artifact.digest}", artifact.path / LOG
        if self.manifest(artifact.kind, artifact.digest) is None:
            if log.exists():
                self._objects.put(f"{folder}/{LOG}", log)
            self._objects.upload(f"{folder}/files", artifact.path, artifact.manifest.files)
            if not self._objects.create(f"{folder}/{MANIFEST}", (artifact.path / MANIFEST).read_bytes()):
                self.manifest(
                    artifact.kind, artifact.digest
                )  # another machine's, or there is something wrong

    def fetch(self, store: Store, kind: str, digest: str) -> Artifact | None:
        """Bring an artifact to a store, None when it is not here; call it inside `store.building`."""
        manifest = self.manifest(kind, digest)
        if manifest is None:
            return None
        directory = store.root / ".partial" / f"{digest}.remote"
        directory.mkdir(exist_ok=True)
        self._objects.download(f"{kind}/{digest}/files", directory, manifest.files)
        return store.adopt(manifest, directory)

    def manifest(self, kind: str, digest: str) -> Manifest | None:
        """Return what is known of an artifact, None when it is not here. Raises CorruptArtifact."""
        name = f"{kind}/{digest}/{MANIFEST}"
        text = self._objects.read(name)
        if text is None:
            return None
        try:
            manifest = Manifest.model_validate_json(text)
            require_inside(manifest.files)
            if (manifest.kind, manifest.digest) != (kind, digest):
                raise ValueError("it is another artifact's")
        except ValueError as error:
            url = f"{self._objects.url}/{name}"
            raise CorruptArtifact(f"{url} is not a manifest ({error}). Remove that folder there.") from error
        return manifest

    def manifests(self) -> list[Manifest]:
        """Return those of all artifacts, oldest first."""
        named = (name.split("/") for name in self._objects.names(f"*/*/{MANIFEST}"))
        found = (self.manifest(kind, digest) for kind, digest, _ in named)
        return sorted((manifest for manifest in found if manifest), key=lambda manifest: manifest.created_at)

    def probe(self) -> None:
        """Put a few bytes, read them back, and remove them."""
        name = f".work/probe-{uuid.uuid4().hex[:12]}"
        if not self._objects.create(name, b"probe") or self._objects.names(name) != [name]:
            raise RemoteFailed(f"{self._objects.url} does not keep what is put there. Use another store.")
        self._objects.forget(name)

    def lease(self, kind: str, digest: str, holder: str) -> AbstractContextManager[None]:
        """Hold the right to build one digest on all machines. Raises StoreBusy (see `leased`)."""
        return leased(self._objects, _work(kind, digest), holder)

    def save_progress(self, kind: str, digest: str, directory: Path) -> None:
        """Send what a stage has finished so far, and forget what was sent before."""
        folder, copy = _work(kind, digest), directory.with_name(f"{directory.name}.sent")
        try:
            files = _freeze(directory, copy)
            self._objects.upload(f"{folder}/files", copy, files)
            self._objects.put(f"{folder}/{PROGRESS}", Progress(files=files).model_dump_json().encode())
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        kept = {record.sha256 for record in files.values()}
        for name in self._objects.names(f"{folder}/files/*"):
            if PurePosixPath(name).name not in kept:
                self._objects.forget(name)

    def restore_progress(self, kind: str, digest: str, directory: Path) -> str:
        """Bring another machine's progress; return its newest checkpoint, "" when there is none newer than here."""
        folder, copy = _work(kind, digest), directory.with_name(f"{directory.name}.progress")
        text = self._objects.read(f"{folder}/{PROGRESS}")
        files = Progress.model_validate_json(text).files if text else {}
        require_inside(files)
        here = [f"{CHECKPOINTS}/{path.name}" for path in directory.glob(f"{CHECKPOINTS}/[!.]*")]
        if newest(files) <= newest(here):
            return ""
        self._objects.download(f"{folder}/files", copy, files)
        (directory / CHECKPOINTS).mkdir(exist_ok=True)
        for path in [*copy.glob("*.*"), *sorted(copy.glob(f"{CHECKPOINTS}/*"))]:
            target = directory / path.relative_to(copy)
            if not target.is_dir():
                path.rename(target)
        shutil.rmtree(copy)
        return newest(files)

    def forget_progress(self, kind: str, digest: str) -> None:
        """Remove the work in progress of what is finished."""
        self._objects.forget(_work(kind, digest))


def newest(names: Iterable[str]) -> str:
    """Return the name of the newest thing below checkpoints/, "" when there is none."""
    parts = (PurePosixPath(name).parts for name in names)
    return max((part[1] for part in parts if part[0] == CHECKPOINTS), default="")


def _work(kind: str, digest: str) -> str:
    return f".work/{kind}/{digest}"


def _freeze(directory: Path, copy: Path) -> dict[str, FileRecord]:
    """Link checkpoints, which do not change, then copy what grows, which is at least as new; return all files."""
    shutil.rmtree(copy, ignore_errors=True)
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(directory / CHECKPOINTS, copy / CHECKPOINTS, copy_function=os.link, ignore=hidden)
    for path in (*directory.glob("*.jsonl"), *directory.glob(LOG)):
        shutil.copy2(path, copy)
    paths = (path for path in copy.rglob("*") if path.is_file())
    return {
        path.relative_to(copy).as_posix(): FileRecord(sha256=content_digest(path), bytes=path.stat().st_size)
        for path in paths
    }
