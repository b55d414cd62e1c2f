"""The store keeps its promises through kills, rivals, full disks and flipped bits."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifacts import Artifact, Store, atomic_write, content_digest, digest_of, require_free_space
from storage.errors import ArtifactNotFound, CorruptArtifact, DiskFull, SourceError, StorageError, StoreBusy

ROOT = Path(__file__).parents[2]
DIGEST = digest_of("model", 1, {"steps": 3}, {})


def commit(store: Store, kind: str, digest: str, parents: dict[str, str] | None = None) -> Artifact:
    return store.commit(
        kind,
        digest,
        version=1,
        recipe={"steps": 3},
        parents=parents or {},
        summary={"loss": 1.5},
        wall_seconds=2.0,
        cpu_seconds=3.0,
        peak_memory_bytes=4,
    )


def build(
    store: Store, kind: str = "model", seed: int = 0, parents: dict[str, str] | None = None
) -> Artifact:
    digest = digest_of(kind, 1, {"seed": seed}, parents or {})
    with store.building(kind, digest) as partial:
        (partial / "model.bin").write_bytes(b"weights" * 100)
        (partial / "nested").mkdir(exist_ok=True)
        (partial / "nested" / "rows.txt").write_text("one\n")
        return commit(store, kind, digest, parents)


def run_python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
    )


def test_digest_ignores_the_order_of_keys() -> None:
    one = digest_of("sft", 1, {"a": 1, "b": {"c": 2, "d": "ü"}}, {"model": "m/1", "data": "d/2"})
    other = digest_of("sft", 1, {"b": {"d": "ü", "c": 2}, "a": 1}, {"data": "d/2", "model": "m/1"})
    assert one == other
    assert len(one) == 64


def test_digest_depends_on_every_part() -> None:
    digests = {
        digest_of("sft", 1, {"a": 1}, {"m": "x"}),
        digest_of("ppo", 1, {"a": 1}, {"m": "x"}),
        digest_of("sft", 2, {"a": 1}, {"m": "x"}),
        digest_of("sft", 1, {"a": 2}, {"m": "x"}),
        digest_of("sft", 1, {"a": 1}, {"m": "y"}),
    }
    assert len(digests) == 5


def test_digest_refuses_paths_and_nan(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        digest_of("sft", 1, {"data": tmp_path}, {})
    with pytest.raises(ValueError):
        digest_of("sft", 1, {"rate": float("nan")}, {})


def test_digest_does_not_know_the_store(tmp_path: Path) -> None:
    here, there = build(Store(tmp_path / "here")), build(Store(tmp_path / "there"))
    assert here.digest == there.digest
    assert here.manifest.files == there.manifest.files
    assert str(tmp_path) not in (here.path / "manifest.json").read_text()


def test_commit_and_find(tmp_path: Path) -> None:
    store = Store(tmp_path)
    built = build(store)
    found = store.find("model", built.digest)
    assert found == built
    assert built.name == f"model/{built.digest[:12]}"
    assert built.summary == {"loss": 1.5}
    assert set(built.manifest.files) == {"model.bin", "nested/rows.txt"}
    assert built.manifest.files["model.bin"].bytes == 700
    assert built.manifest.files["model.bin"].sha256 == content_digest(b"weights" * 100)
    assert built.file("nested/rows.txt").read_text() == "one\n"
    with pytest.raises(CorruptArtifact, match=r"absent\.bin"):
        built.file("absent.bin")


def test_artifact_pickles_without_its_manifest(tmp_path: Path) -> None:
    built = build(Store(tmp_path))
    before = len(pickle.dumps(built))
    assert built.manifest.kind == "model"
    assert len(pickle.dumps(built)) == before
    assert pickle.loads(pickle.dumps(built)) == built


def test_transient_files_are_not_vouched_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.building("model", DIGEST) as partial:
        (partial / "model.bin").write_bytes(b"w")
        (partial / "checkpoints").mkdir()
        (partial / "checkpoints" / "step-1").write_bytes(b"c")
        (partial / "worker.log").write_text("noise")
        (partial / "DONE").touch()
        (partial / ".model.bin.0a1b2c3d.tmp").write_bytes(b"left by a kill")
        artifact = commit(store, "model", DIGEST)
    assert set(artifact.manifest.files) == {"model.bin"}
    assert sorted(path.name for path in artifact.path.iterdir()) == [
        "DONE",
        "manifest.json",
        "model.bin",
        "worker.log",
    ]


def test_work_resumes_in_the_same_directory(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.building("model", DIGEST) as partial:
        (partial / "half").write_text("kept")
        raise RuntimeError
    assert store.artifacts() == []
    with store.building("model", DIGEST) as again:
        assert again == partial
        assert (again / "half").read_text() == "kept"


def test_second_commit_keeps_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = build(store)
    with store.building("model", first.digest) as partial:
        (partial / "model.bin").write_bytes(b"other")
        second = commit(store, "model", first.digest)
    assert second == first
    assert second.file("model.bin").read_bytes() == b"weights" * 100
    assert not partial.exists()


def test_commit_without_work_or_into_foreign_files_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StorageError, match="Nothing was built"):
        commit(store, "model", DIGEST)
    (tmp_path / "model" / DIGEST).mkdir(parents=True)
    (tmp_path / "model" / DIGEST / "stray").touch()
    with store.building("model", DIGEST) as partial, pytest.raises(CorruptArtifact, match="Move that folder"):
        (partial / "model.bin").write_bytes(b"w")
        commit(store, "model", DIGEST)


# Forks one child a call to be killed at; prints how each ended. SIGKILL leaves no chance to clean up.
KILLER = """
import os, signal, sys
from pathlib import Path
from storage import artifacts

STEPS = {"open", "mkdir", "write", "fsync", "replace", "rename", "unlink", "rmdir", "close"}

def build(root):
    store = artifacts.Store(root)
    with store.building("model", sys.argv[2]) as partial:
        (partial / "nested").mkdir(exist_ok=True)
        (partial / "nested" / "rows.txt").write_text("one")
        (partial / "model.bin").write_bytes(b"weights")
        (partial / "checkpoints").mkdir(exist_ok=True)
        (partial / "checkpoints" / "state").write_bytes(b"state")
        store.commit("model", sys.argv[2], version=1, recipe={}, parents={}, summary={},
                     wall_seconds=0.0, cpu_seconds=0.0, peak_memory_bytes=0)

artifacts._git_commit()
fatal, ended = 0, 1
while ended:
    fatal += 1
    child = os.fork()
    if child == 0:
        left = fatal
        def count(frame, event, function):
            global left
            if event == "c_call" and function.__name__ in STEPS and not isinstance(function.__self__, str):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        build(Path(sys.argv[1]) / str(fatal))
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    print(ended, flush=True)
"""


def test_a_kill_anywhere_leaves_an_artifact_whole_or_absent(tmp_path: Path) -> None:
    killer = run_python(KILLER, tmp_path, DIGEST)
    ends = [int(line) for line in killer.communicate(timeout=60)[0].split()]
    assert ends[:-1] == [9] * (len(ends) - 1), "every child but the last dies of SIGKILL"
    assert ends[-1] == 0
    assert len(ends) > 40
    visible = []
    for fatal in range(1, len(ends) + 1):
        store = Store(tmp_path / str(fatal))
        found = store.find("model", DIGEST)
        assert store.artifacts() == ([found] if found else [])
        visible.append(found is not None)
        if found:
            store.verify(found)
            assert set(found.manifest.files) == {"model.bin", "nested/rows.txt"}
        with store.building("model", DIGEST) as partial:
            if not found:
                (partial / "nested").mkdir(exist_ok=True)
                (partial / "nested" / "rows.txt").write_text("one")
                (partial / "model.bin").write_bytes(b"weights")
            retried = commit(store, "model", DIGEST)
        store.verify(retried)
        assert set(retried.manifest.files) == {"model.bin", "nested/rows.txt"}
        assert not (retried.path / "checkpoints").exists()
        assert [path.name for path in (store.root / ".partial").iterdir()] == [f"{DIGEST}.lock"]
    assert visible == sorted(visible), "invisible up to the rename, visible after it"
    assert True in visible[:-1] and False in visible


HOLDER = """
import sys
from pathlib import Path
from storage.artifacts import Store
with Store(Path(sys.argv[1])).building("model", sys.argv[2]):
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_second_builder_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    holder = run_python(HOLDER, tmp_path, DIGEST)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        with pytest.raises(StoreBusy) as refused, store.building("model", DIGEST):
            pass
        signed = json.loads((tmp_path / ".partial" / f"{DIGEST}.lock").read_text())
        assert signed["pid"] == holder.pid
        assert signed["kind"] == "model"
        for fact in (
            f"model/{DIGEST[:12]}",
            str(holder.pid),
            signed["host"],
            signed["started"],
            "Wait for it",
        ):
            assert fact in str(refused.value)
        with store.building("model", digest_of("model", 1, {"steps": 4}, {})):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with store.building("model", DIGEST) as partial:
        assert partial.is_dir(), "the lock died with its holder"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def fill(path: Path) -> None:
    with pytest.raises(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_while_building_is_named(small_disk: Path) -> None:
    with (
        pytest.raises(DiskFull, match=r"small.*bytes free"),
        Store(small_disk).building("m", DIGEST) as partial,
    ):
        (partial / "big").write_bytes(bytes(1 << 20))


def test_a_full_disk_while_committing_is_named_and_retried(small_disk: Path) -> None:
    store = Store(small_disk)
    with pytest.raises(DiskFull, match="Free some space"), store.building("model", DIGEST) as partial:
        (partial / "model.bin").write_bytes(b"weights")
        fill(small_disk / "ballast")
        commit(store, "model", DIGEST)
    assert store.artifacts() == []
    (small_disk / "ballast").unlink()
    with store.building("model", DIGEST) as partial:
        artifact = commit(store, "model", DIGEST)
    store.verify(artifact)
    assert set(artifact.manifest.files) == {"model.bin"}


def test_atomic_write_keeps_the_old_file_on_a_full_disk(small_disk: Path) -> None:
    atomic_write(small_disk / "facts", b"old")
    with pytest.raises(DiskFull):
        atomic_write(small_disk / "facts", bytes(1 << 20))
    assert (small_disk / "facts").read_bytes() == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["facts"]


def test_free_space_is_asked_for_before_the_work(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DiskFull, match="needs"):
        require_free_space(tmp_path, 1 << 60)


def test_lineage_lists_parents_first_and_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    corpus = build(store, "corpus")
    tokens = build(store, "tokens", parents={"corpus": f"corpus/{corpus.digest}"})
    model = build(
        store, "model", parents={"tokens": f"tokens/{tokens.digest}", "corpus": f"corpus/{corpus.digest}"}
    )
    sft = build(store, "sft", parents={"model": f"model/{model.digest}", "corpus": f"corpus/{corpus.digest}"})
    assert [ancestor.kind for ancestor in store.lineage(sft)] == ["corpus", "tokens", "model"]
    assert store.lineage(corpus) == []
    (tokens.path / "manifest.json").unlink()
    with pytest.raises(ArtifactNotFound, match="tokens"):
        store.lineage(sft)


def test_artifacts_come_oldest_first_and_resolve_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    built = [build(store, "model", seed=seed) for seed in range(20)]
    reward = build(store, "reward")
    assert store.artifacts() == [*built, reward]
    assert store.resolve("model") == built[-1]
    assert store.resolve(built[3].name) == built[3]
    assert store.resolve(built[3].digest) == built[3]
    assert store.resolve(f"reward/{reward.digest[:4]}") == reward
    with pytest.raises(ArtifactNotFound, match=r"Did you mean.*reward"):
        store.resolve("rewards")
    with pytest.raises(ArtifactNotFound, match="reward"):
        store.resolve(f"reward/{built[3].digest[:20]}")
    initials = [artifact.digest[0] for artifact in built]
    shared = next(digit for digit in initials if initials.count(digit) > 1)
    with pytest.raises(ArtifactNotFound, match="could be any of"):
        store.resolve(f"model/{shared}")
    with pytest.raises(ArtifactNotFound, match="empty"):
        Store(tmp_path / "nothing").resolve("model")


def test_verify_names_the_first_bad_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = build(store)
    store.verify(artifact)
    data = bytearray(artifact.file("nested/rows.txt").read_bytes())
    data[0] ^= 1
    artifact.file("nested/rows.txt").write_bytes(data)
    with pytest.raises(CorruptArtifact, match=r"nested/rows\.txt"):
        store.verify(artifact)
    artifact.file("model.bin").unlink()
    with pytest.raises(CorruptArtifact, match=r"model\.bin"):
        store.verify(artifact)


def test_unreadable_manifest_is_corrupt(tmp_path: Path) -> None:
    artifact = build(Store(tmp_path))
    (artifact.path / "manifest.json").write_text('{"kind": "model"}')
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        Store(tmp_path).artifacts()


def test_content_digest(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_digest(b"abc") == content_digest(tmp_path / "text") == expected
    with pytest.raises(SourceError, match="absent"):
        content_digest(tmp_path / "absent")
