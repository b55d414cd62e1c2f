"""Artifacts: immutable directories named by what went into them.

    <root>/<kind>/<digest>/manifest.json + files      committed, complete, never changed again
    <root>/.partial/<digest>/                         being built; the same name on retry, so work resumes
    <root>/.partial/<digest>.remote/                  on its way from a remote store (see remote.py)
    <root>/.partial/<digest>.lock                     held (flock) by the process that builds it

A directory becomes visible by one rename, after its files, its manifest and their names are on disk:
an artifact is whole or absent, whatever was killed and whenever.
"""

import errno
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from storage.disk import (
    atomic_write,
    content_digest,
    naming_full_disk,
    require_free_space,
    sync,
    take_lock,
)
from storage.errors import ArtifactNotFound, CorruptArtifact, StorageError, StoreBusy
from storage.manifest import MANIFEST, FileRecord, Manifest, digest_of

__all__ = ["Artifact", "FileRecord", "Manifest", "Store", "digest_of"]
__all__ += ["atomic_write", "content_digest", "require_free_space"]

TRANSIENT = frozenset({"checkpoints", "worker.log", "heartbeat.json", "DONE"})
"""Top-level names no manifest vouches for: `checkpoints` goes once the artifact stands, the rest stays."""
_REBUILD = "Move that folder out of the store and run the stage again."


def short_name(full_name: str) -> str:
    """Return "kind/digest" as people are shown it, with twelve digits."""
    kind, _, digest = full_name.partition("/")
    return f"{kind}/{digest[:12]}"


@dataclass(frozen=True)
class Artifact:
    """A handle to a committed artifact: three small values; the manifest is read on first use."""

    kind: str
    digest: str
    path: Path

    @property
    def name(self) -> str:
        return short_name(self.full_name)

    @property
    def full_name(self) -> str:
        """As which it is a parent of others."""
        return f"{self.kind}/{self.digest}"

    @cached_property
    def manifest(self) -> Manifest:
        """Raises CorruptArtifact when the manifest is missing or not one."""
        try:
            return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            message = f"{self.name}: {self.path / MANIFEST} is unreadable ({error}). {_REBUILD}"
            raise CorruptArtifact(message) from error

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary

    def file(self, name: str) -> Path:
        """The path of a file or folder inside. Raises CorruptArtifact when it is absent."""
        path = self.path / name
        if not path.exists():
            raise CorruptArtifact(f"{self.name} has no file {name} in {self.path}. {_REBUILD}")
        return path

    def __reduce__(self) -> tuple[Any, ...]:  # without the cached manifest
        return Artifact, (self.kind, self.digest, self.path)


class Store:
    """The artifacts under one root folder, the pipeline's only cache."""

    def __init__(self, root: Path):
        self.root = root

    def find(self, kind: str, digest: str) -> Artifact | None:
        path = self.root / kind / digest
        return Artifact(kind, digest, path) if (path / MANIFEST).is_file() else None

    @contextmanager
    def building(self, kind: str, digest: str) -> Iterator[Path]:
        """Hold the right to build one digest; yields its partial directory with whatever an earlier try left.

        Leaving without `commit` keeps the directory for the next try. The lock dies with the process: a lock
        file left behind means nothing. Raises StoreBusy when another builder holds it, DiskFull when the disk
        fills up, in the body too.
        """
        partial = self._partial(digest)
        with naming_full_disk(self.root):
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.with_suffix(".lock").open("a+") as lock:
                _take(lock, kind, digest)
                partial.mkdir(exist_ok=True)
                try:
                    yield partial
                finally:
                    with suppress(OSError):
                        partial.rmdir()  # only an empty one goes

    def commit(
        self,
        kind: str,
        digest: str,
        *,
        version: int,
        recipe: Mapping[str, Any],
        parents: Mapping[str, str],
        summary: Mapping[str, Any],
        wall_seconds: float,
        cpu_seconds: float,
        peak_memory_bytes: int,
        energy_kwh: float = 0.0,
        kg_co2: float = 0.0,
        energy_method: str = "not counted",
    ) -> Artifact:
        """Make what lies in the partial directory visible; call it inside `building`.

        Keeps an artifact that is already there and drops the new one. Checkpoints go last, when nothing can
        need them any more. Raises DiskFull, and CorruptArtifact when a folder without manifest is in the way.
        """
        partial, path = self._partial(digest), self.root / kind / digest
        with naming_full_disk(self.root):
            if self.find(kind, digest) is None:
                manifest = Manifest(
                    kind=kind,
                    digest=digest,
                    format_version=version,
                    recipe=dict(recipe),
                    parents=dict(parents),
                    files=_settle(partial),
                    created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                    git_commit=_git_commit(),
                    wall_seconds=wall_seconds,
                    cpu_seconds=cpu_seconds,
                    peak_memory_bytes=peak_memory_bytes,
                    energy_kwh=energy_kwh,
                    kg_co2=kg_co2,
                    energy_method=energy_method,
                    summary=dict(summary),
                )
                self._show(partial, manifest)
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(path / "checkpoints", ignore_errors=True)
        return Artifact(kind, digest, path)

    def adopt(self, manifest: Manifest, directory: Path) -> Artifact:
        """Make another store's artifact visible, its files, checked, in `directory`; call it inside `building`.

        Raises DiskFull, and CorruptArtifact when a folder without manifest is in the way.
        """
        with naming_full_disk(self.root):
            for path in directory.rglob("*"):
                if path.is_file() and path.relative_to(directory).as_posix() not in manifest.files:
                    path.unlink()
                else:
                    sync(path)
            self._show(directory, manifest)
        return Artifact(manifest.kind, manifest.digest, self.root / manifest.kind / manifest.digest)

    def artifacts(self) -> list[Artifact]:
        """Every committed artifact, oldest first."""
        paths = [path.parent for path in self.root.glob(f"[!.]*/*/{MANIFEST}")]
        found = [Artifact(path.parent.name, path.name, path) for path in paths]
        return sorted(found, key=lambda artifact: (artifact.manifest.created_at, artifact.name))

    def resolve(self, text: str) -> Artifact:
        """The artifact meant by "kind" (its newest), "kind/prefix" or "prefix". Raises ArtifactNotFound."""
        everything = self.artifacts()
        newest = [artifact for artifact in everything if artifact.kind == text]
        if newest:
            return newest[-1]
        kind, _, prefix = text.rpartition("/")
        matches = [a for a in everything if prefix and a.digest.startswith(prefix) and kind in ("", a.kind)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(artifact.name for artifact in matches)
            raise ArtifactNotFound(f"{text!r} could be any of {names}. Give more digits.")
        names = [artifact.name for artifact in everything]
        near = get_close_matches(text, [*names, *{a.kind for a in everything}], n=5, cutoff=0.5) or names[-5:]
        choices = f"Did you mean {', '.join(near)}?" if near else "The store is empty: run a stage first."
        raise ArtifactNotFound(f"No artifact {text!r} in {self.root}. {choices}")

    def lineage(self, artifact: Artifact, whole: bool = True) -> list[Artifact]:
        """All ancestors, each once, parents before children.

        What was deleted raises ArtifactNotFound or, if the lineage need not be whole, is left out.
        """
        ancestors: dict[str, Artifact] = {}

        def visit(child: Artifact) -> None:
            for role, name in child.manifest.parents.items():
                if name in ancestors:
                    continue
                parent = self.find(*name.split("/", 1))
                if parent is None:
                    if not whole:
                        continue
                    raise ArtifactNotFound(f"{name}, {role} of {child.name}, is gone. Run its stage again.")
                visit(parent)
                ancestors[name] = parent

        visit(artifact)
        return list(ancestors.values())

    def verify(self, artifact: Artifact) -> None:
        """Hash every file again. Raises CorruptArtifact naming the first that differs."""
        for name, record in artifact.manifest.files.items():
            if content_digest(artifact.file(name)) != record.sha256:
                raise CorruptArtifact(f"{artifact.name}: {name} is not what was committed. {_REBUILD}")

    def _show(self, directory: Path, manifest: Manifest) -> None:
        """Write the manifest and rename the directory to its place."""
        path = self.root / manifest.kind / manifest.digest
        atomic_write(directory / MANIFEST, manifest.model_dump_json(indent=2).encode())
        path.parent.mkdir(exist_ok=True)
        try:
            directory.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise CorruptArtifact(f"{path} has files but no {MANIFEST}. {_REBUILD}") from error
        for folder in (path.parent, directory.parent, self.root):
            sync(folder)

    def _partial(self, digest: str) -> Path:
        return self.root / ".partial" / digest


def _take(lock: IO[str], kind: str, digest: str) -> None:
    """Lock an open file and sign it. Raises StoreBusy with the other's signature."""
    if holder := take_lock(lock, kind=kind):
        raise StoreBusy(
            f"{kind}/{digest[:12]} is being built by process {holder['pid']} on {holder['host']} since "
            f"{holder['started']}. Wait for it, or stop that process and run again: work resumes."
        )


def _settle(partial: Path) -> dict[str, FileRecord]:
    """Flush and hash what is to be committed; drop what a killed `atomic_path` left."""
    if not partial.is_dir():
        raise StorageError(f"Nothing was built in {partial}. Commit inside `with store.building(...)`.")
    records = {}
    for path in sorted(partial.rglob("*")):
        name = path.relative_to(partial)
        if name.parts[0] in TRANSIENT or name.as_posix() == MANIFEST:
            continue
        if path.match(".*.tmp"):
            path.unlink()
            continue
        sync(path)
        if path.is_file():
            records[name.as_posix()] = FileRecord(sha256=content_digest(path), bytes=path.stat().st_size)
    return records


@cache
def _git_commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
