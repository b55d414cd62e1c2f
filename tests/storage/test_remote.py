"""The remote store keeps its promises through refusals, lost answers, halves, kills and rivals."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage import lease, objects
from storage.artifacts import Artifact, Store
from storage.errors import CorruptArtifact, RemoteFailed, SourceError, StoreBusy
from storage.remote import Remote
from tests.storage.object_store import BUCKET, ObjectStore

ROOT = Path(__file__).parents[2]
DIGEST = "ab" * 32
URL = f"s3://{BUCKET}/llama2"
WRITES = 4
"""Two files, a log and a manifest."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried again by itself, so that each failure shows; one after the other, so that each has a number."""
    monkeypatch.setattr(objects, "PAUSES", ())
    monkeypatch.setattr(objects, "TRANSFERS", 1)


def made(root: Path, weights: bytes = b"weights" * 100) -> Artifact:
    store = Store(root)
    with store.building("model", DIGEST) as partial:
        (partial / "nested").mkdir()
        (partial / "nested" / "rows.txt").write_text("one\n")
        (partial / "model.bin").write_bytes(weights)
        (partial / "worker.log").write_text("all went well\n")
        return store.commit(
            "model",
            DIGEST,
            version=1,
            recipe={},
            parents={},
            summary={},
            wall_seconds=1,
            cpu_seconds=1,
            peak_memory_bytes=1,
        )


def fetched(root: Path, url: str = URL) -> Artifact | None:
    """Fetch to a new machine, and see that what comes is whole."""
    store = Store(root)
    with store.building("model", DIGEST):
        found = Remote(url).fetch(store, "model", DIGEST)
    assert found == store.find("model", DIGEST)
    if found:
        store.verify(found)
    return found


@pytest.mark.parametrize("fate", ["refused", "answer lost", "half"])
@pytest.mark.parametrize("broken", range(1, WRITES + 1))
def test_a_push_that_fails_anywhere(bucket: ObjectStore, tmp_path: Path, fate: str, broken: int) -> None:
    artifact = made(tmp_path / "here")
    bucket.begin(lambda kind, number: fate if (kind, number) == ("write", broken) else "")
    try:
        Remote(URL).push(artifact)
        complete = True
    except (RemoteFailed, CorruptArtifact) as error:
        complete = False
        assert URL in str(error)
    assert complete == ((broken == WRITES and fate == "answer lost") or (broken == 1 and fate == "half"))
    if fate == "half" and broken == WRITES:  # no server should, but readers still see no artifact
        with pytest.raises((CorruptArtifact, RemoteFailed)):  # by its JSON, or before that by S3's checksum
            fetched(tmp_path / "there")
        return
    assert (fetched(tmp_path / "there") is not None) == complete
    bucket.begin()
    Remote(URL).push(artifact)
    again = fetched(tmp_path / "again")
    assert again and again.manifest == artifact.manifest and not bucket.halves


# Pushes what argv names; killed by the server while a request is on its way.
PUSH = """
import sys
from pathlib import Path
from storage import objects
from storage.artifacts import Store
from storage.remote import Remote
objects.TRANSFERS = 1
print("ready", flush=True)
for _ in sys.stdin:
    Remote(sys.argv[2]).push(Store(Path(sys.argv[1])).resolve("model"))
    print("done", flush=True)
"""


@pytest.mark.parametrize("broken", [2, pytest.param(3, marks=pytest.mark.slow), WRITES])
def test_kill_9_in_the_middle_of_a_request(bucket: ObjectStore, tmp_path: Path, broken: int) -> None:
    made(tmp_path / "here")
    bucket.begin(lambda kind, number: "killed" if (kind, number) == ("write", broken) else "")
    command = [sys.executable, "-c", PUSH, str(tmp_path / "here"), URL]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=-1, stdout=-1) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "ready\n"
        bucket.victim = child.pid
        child.stdin.write("\n")
        child.stdin.close()
        assert child.wait(60) == -9
    assert fetched(tmp_path / "there") is None and not bucket.halves
    bucket.begin()
    Remote(URL).push(Store(tmp_path / "here").resolve("model"))
    assert fetched(tmp_path / "there") and not bucket.halves


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_file_sent_in_parts(bucket: ObjectStore, tmp_path: Path) -> None:
    made(tmp_path / "here", bytes(101 * 2**20))
    bucket.begin(
        lambda kind, number: "killed" if (kind, number) == ("write", 4) else ""
    )  # log, rows or begin, part
    command = [sys.executable, "-c", PUSH, str(tmp_path / "here"), URL]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=-1, stdout=-1) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "ready\n"
        bucket.victim = child.pid
        child.stdin.write("\n")
        child.stdin.close()
        assert child.wait(60) == -9
    assert not any(len(value) > 10_000 for value in bucket.held().values())
    bucket.begin()
    Remote(URL).push(Store(tmp_path / "here").resolve("model"))
    assert fetched(tmp_path / "there") and not bucket.halves


def test_readers_of_a_slow_push_see_nothing_or_all(bucket: ObjectStore, tmp_path: Path) -> None:
    artifact = made(tmp_path / "here")
    bucket.begin(lambda kind, number: "slow" if kind == "write" else "")
    pushing = threading.Thread(target=Remote(URL).push, args=(artifact,))
    pushing.start()
    looks = []
    while not looks or not looks[-1]:
        looks.append(fetched(tmp_path / f"there{len(looks)}"))
    pushing.join()
    assert len(looks) > 2 and not bucket.halves
    assert [m.digest for m in Remote(URL).manifests()] == [DIGEST]


def test_what_fails_once_is_tried_again(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PAUSES", (0.01, 0.01, 0.01))
    artifact = made(tmp_path / "here")
    fates = {1: "refused", 3: "half", 4: "answer lost", 6: "refused"}
    bucket.begin(lambda kind, number: fates.get(number, "") if kind == "write" else "")
    Remote(URL).push(artifact)
    bucket.begin(lambda kind, number: "short" if number % 3 == 0 else "")
    assert fetched(tmp_path / "there") and not bucket.halves


@pytest.mark.parametrize("broken", [2, 3])
def test_a_fetch_that_fails_anywhere_goes_on_later(bucket: ObjectStore, tmp_path: Path, broken: int) -> None:
    Remote(URL).push(made(tmp_path / "here"))
    bucket.begin(lambda kind, number: "refused" if number == broken else "")
    with pytest.raises(RemoteFailed):
        fetched(tmp_path / "there")
    assert Store(tmp_path / "there").artifacts() == []
    bucket.begin()
    assert fetched(tmp_path / "there")


def test_machines_that_built_the_same_differently(bucket: ObjectStore, tmp_path: Path) -> None:
    first, second = made(tmp_path / "one"), made(tmp_path / "two", b"other weights")
    bucket.begin(lambda kind, number: "refused" if number == WRITES + 8 else "")
    pushes = [threading.Thread(target=Remote(URL).push, args=(artifact,)) for artifact in (first, second)]
    for push in pushes:
        push.start()
    for push in pushes:
        push.join()
    Remote(URL).push(second)
    found = fetched(tmp_path / "there")
    assert found and found.manifest in (first.manifest, second.manifest) and not bucket.halves
    assert second.file("model.bin").read_bytes() == b"other weights"


def test_what_changed_after_it_was_committed_is_not_sent(bucket: ObjectStore, tmp_path: Path) -> None:
    artifact = made(tmp_path / "here")
    artifact.file("model.bin").write_bytes(b"WEIGHTS" * 100)
    with pytest.raises(CorruptArtifact, match=r"model\.bin has changed"):
        Remote(URL).push(artifact)
    assert fetched(tmp_path / "there") is None


def test_a_manifest_cannot_lead_out_of_its_folder(bucket: ObjectStore, tmp_path: Path) -> None:
    artifact = made(tmp_path / "here")
    remote = objects.Objects(URL)
    for name in ("../../outside.txt", "/tmp/outside.txt"):
        facts = json.loads(artifact.file("manifest.json").read_text())
        facts["files"][name] = {"sha256": "0" * 64, "bytes": 1}
        remote.put(f"model/{DIGEST}/manifest.json", json.dumps(facts).encode())
        with pytest.raises(CorruptArtifact, match="is outside"):
            fetched(tmp_path / "there")
    remote.put(
        f"model/{DIGEST}/manifest.json", artifact.file("manifest.json").read_bytes().replace(b"ab", b"cd")
    )
    with pytest.raises(CorruptArtifact, match="another artifact's"):
        fetched(tmp_path / "there")


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_other_file_systems(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}{tmp_path}/remote"
    remote = Remote(url)
    remote.probe()
    assert fetched(tmp_path / "there", url) is None
    remote.push(made(tmp_path / "here"))
    assert fetched(tmp_path / "there", url)
    assert [manifest.digest for manifest in remote.manifests()] == [DIGEST]
    with remote.lease("model", DIGEST, "me"), pytest.raises(StoreBusy, match="me builds it"):
        lease_in_vain(remote)


def lease_in_vain(remote: Remote) -> None:
    """Ask for a lease that its holder renews."""
    with remote.lease("model", DIGEST, "another"):
        raise AssertionError("two have it")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)


def test_a_lease_is_renewed_given_back_and_waited_out(bucket: ObjectStore) -> None:
    remote = Remote(URL)
    with (
        remote.lease("model", DIGEST, "host-1:/var"),
        pytest.raises(StoreBusy, match="host-1:/var builds it"),
    ):
        lease_in_vain(remote)
    started = time.monotonic()
    with remote.lease("model", DIGEST, "another"):
        assert time.monotonic() - started < 0.5, "it was given back"
    gone = lease.Lease(holder="host-1:/var", until=time.time() + 0.6)
    objects.Objects(URL).put(f".work/model/{DIGEST}/lease-000007.json", gone.model_dump_json().encode())
    with remote.lease("model", DIGEST, "another"):
        assert time.time() > gone.until
    gone = gone.model_copy(update={"until": time.time() + 60})
    objects.Objects(URL).put(f".work/model/{DIGEST}/lease-000009.json", gone.model_dump_json().encode())
    with remote.lease("model", DIGEST, "host-1:/var"):
        pass  # killed and run again on the same machine


def test_one_of_many_gets_a_lease(bucket: ObjectStore) -> None:
    begun, outcomes = threading.Barrier(6), []

    def ask(holder: str) -> None:
        begun.wait()
        try:
            with Remote(URL).lease("model", DIGEST, holder):
                outcomes.append(holder)
                time.sleep(1.0)
        except StoreBusy:
            outcomes.append("")

    askers = [threading.Thread(target=ask, args=(f"host-{n}",)) for n in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(outcomes) == 6 and len(list(filter(None, outcomes))) == 1


def working(directory: Path, step: int) -> Path:
    """What a training stage leaves at a step: a checkpoint, the one before, one being written, and rows."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    for at in (step - 10, step):
        folder = directory / "checkpoints" / f"step-{at:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shard.safetensors").write_bytes(b"%d" % at * 50)
        (folder / "state.json").write_text("{}")
    (directory / "checkpoints" / f".partial-{step + 10:08d}").mkdir(exist_ok=True)
    (directory / "metrics.jsonl").write_text('{"step": 1}\n' * step)
    (directory / "worker.log").write_text("log\n")
    (directory / "job.json").write_text("{}")
    return directory


@pytest.mark.parametrize("broken", range(1, 5))
def test_work_goes_on_elsewhere_from_whole_progress(bucket: ObjectStore, tmp_path: Path, broken: int) -> None:
    remote, here, there = Remote(URL), tmp_path / "here", tmp_path / "there"
    there.mkdir()
    assert remote.restore_progress("model", DIGEST, there) == ""
    remote.save_progress("model", DIGEST, working(here, 20))
    bucket.begin(lambda kind, number: "half" if (kind, number) == ("write", broken) else "")
    try:
        remote.save_progress("model", DIGEST, working(here, 30))
        assert broken >= 3  # a shard, metrics, the marker: there was nothing left to break
    except RemoteFailed:
        assert broken < 4 and not bucket.halves
    saved = 20 if broken < 3 else 30
    if broken == 3:  # the server itself has cut the marker
        with pytest.raises((ValueError, RemoteFailed)):
            remote.restore_progress("model", DIGEST, there)
        return
    assert remote.restore_progress("model", DIGEST, there) == f"step-{saved:08d}"
    assert {path.relative_to(there).as_posix() for path in there.rglob("*.*") if path.is_file()} == {
        "metrics.jsonl",
        "worker.log",
        *(
            f"checkpoints/step-{at:08d}/{name}"
            for at in (saved - 10, saved)
            for name in ("shard.safetensors", "state.json")
        ),
    }
    assert (there / "metrics.jsonl").read_text().count("\n") == saved
    assert remote.restore_progress("model", DIGEST, there) == "", "nothing newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def test_only_the_newest_progress_is_kept(bucket: ObjectStore, tmp_path: Path) -> None:
    remote = Remote(URL)
    for step in (20, 30, 40):
        remote.save_progress("model", DIGEST, working(tmp_path, step))
    held = [name for name in bucket.held() if "/files/" in name]
    assert len(held) == 5  # two shards, one empty state.json, metrics, log
    remote.forget_progress("model", DIGEST)
    assert not bucket.held()


@pytest.mark.parametrize(
    ("url", "message"),
    [("s3://absent-bucket/x", "bucket"), (f"s3://{BUCKET}-and-more", "bucket")],
)
def test_a_store_that_is_not_there(bucket: ObjectStore, tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(RemoteFailed, match=message):
        Remote(url).probe()
    with pytest.raises(RemoteFailed, match="run again"):
        Remote(url).push(made(tmp_path))


def test_a_url_that_is_none() -> None:
    with pytest.raises(SourceError, match="Protocol not known"):
        Remote("nonsense://bucket")
