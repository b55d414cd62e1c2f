"""A run's dealings with the remote store: what is finished, what is at work, and who does it."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from storage.artifacts import Artifact, Store
from storage.errors import StorageError
from storage.remote import CHECKPOINTS, Remote, newest
from tasks.runtime import Runtime

SAVE_SECONDS = 30.0
"""Between looks for new checkpoints."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Mirror:
    """What a run does with its remote store, and nothing where it has none."""

    remote: Remote | None
    holder: str
    """Who we are, for the others."""
    say: Say

    def fetch(self, kind: str, digest: str, store: Store) -> Artifact | None:
        """Bring an artifact to the store, None when the remote has none; call it inside `store.building`."""
        found = self.remote and self.remote.fetch(store, kind, digest)
        if found:
            self.say(f"  [dim]{found.name}: fetched[/]")
        return found

    def bring(self, kind: str, digest: str, store: Store) -> Artifact | None:
        """The same for what nobody is about to build."""
        if not self.remote or not digest or not self.remote.manifest(kind, digest):
            return None
        with store.building(kind, digest):
            return store.find(kind, digest) or self.fetch(kind, digest, store)

    def push(self, artifact: Artifact) -> None:
        """Send a committed artifact, unless it is there."""
        if self.remote:
            self.remote.push(artifact)
            self.remote.forget_progress(artifact.kind, artifact.digest)

    @contextmanager
    def working(self, kind: str, digest: str, directory: Path) -> Iterator[None]:
        """Be the one who builds it, go on from where another machine stopped, and send checkpoints as they come."""
        if not self.remote:
            yield
            return
        with self.remote.lease(kind, digest, self.holder):
            self._go_on(self.remote, kind, digest, directory)
            ended = threading.Event()
            saving = partial(self._save, self.remote, kind, digest, directory, ended)
            saver = threading.Thread(target=saving, daemon=True)
            saver.start()
            try:
                yield
            finally:
                ended.set()
                saver.join()

    def _go_on(self, remote: Remote, kind: str, digest: str, directory: Path) -> None:
        try:
            brought = remote.restore_progress(kind, digest, directory)
        except (StorageError, ValueError) as error:
            self.say(f"  [yellow]Another machine's checkpoints are passed over: {error}[/]")
        else:
            if brought:
                self.say(f"  goes on from another machine's {Path(brought).stem}")

    def _save(self, remote: Remote, kind: str, digest: str, directory: Path, ended: threading.Event) -> None:
        """Send each new checkpoint, the last one before the end too; one that cannot be sent costs only time."""
        saved = _newest(directory)
        while True:
            over = ended.wait(SAVE_SECONDS)
            found = _newest(directory)
            if found > saved:
                try:
                    remote.save_progress(kind, digest, directory)
                    saved = found
                except (StorageError, OSError, shutil.Error) as error:  # a checkpoint may go while it is read
                    self.say(f"  [yellow]{found} is not sent: {error}[/]")
            if over:
                return


def mirror_of(runtime: Runtime, say: Say) -> Mirror:
    """Return a run's mirror. Raises SourceError for a URL that fsspec does not know, MissingPackage for its driver."""
    remote = Remote(runtime.remote_store) if runtime.remote_store else None
    return Mirror(remote, f"{socket.gethostname()}:{runtime.home.absolute()}", say)


def _newest(directory: Path) -> str:
    return newest(f"{CHECKPOINTS}/{path.name}" for path in directory.glob(f"{CHECKPOINTS}/[!.]*"))
