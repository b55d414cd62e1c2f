"""Stages of machines that share a remote store and no folder: fetched, taken over, and without a secret in any file."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from deployments.profiles import Profile, changed
from llama2_core.errors import ConfigError
from storage import lease
from storage.artifacts import Store
from storage.errors import RemoteFailed, StoreBusy
from storage.remote import Remote
from tasks import mirror
from tasks.jobs import Job
from tasks.launch import WorkerFailed, build, find
from tasks.mirror import mirror_of
from tasks.recipes import TokensRecipe
from tasks.runtime import Runtime
from tests.storage.object_store import BUCKET, ObjectStore, serving

SECRET = "a-secret-that-must-not-be-written"
URL = f"s3://{BUCKET}/llama2"
JOB = Job("tokens", "tokens", TokensRecipe())


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    pytest.importorskip("moto.server", reason="needs moto[s3]")
    pytest.importorskip("s3fs", reason="needs the extra data")
    monkeypatch.setattr(mirror, "SAVE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)
    with serving(monkeypatch, SECRET) as store:
        yield store


def machine(tmp_path: Path, name: str) -> Runtime:
    return Runtime(home=tmp_path / name, remote_store=URL)


def work(directory: Path) -> dict[str, Any]:
    """A stage of ten checkpoints, which goes on from the newest and dies at the fifth on its first machine."""
    kept = directory / "checkpoints"
    kept.mkdir(exist_ok=True)
    begun = max((int(path.name[5:]) for path in kept.glob("step-*")), default=0)
    for step in range(begun + 1, 11):
        (kept / f".partial-{step:08d}").mkdir()
        (kept / f".partial-{step:08d}" / "state.json").write_text(str(step))
        (kept / f".partial-{step:08d}").rename(kept / f"step-{step:08d}")
        if step == 5 and begun == 0:
            raise WorkerFailed("the machine is taken away")
    (directory / "rows.txt").write_text(f"begun at {begun}")
    return {"begun": begun}


@pytest.mark.drill
def test_another_machine_goes_on_and_a_third_fetches(
    prefect: None, bucket: ObjectStore, tmp_path: Path
) -> None:
    here, there, third = (machine(tmp_path, name) for name in ("here", "there", "third"))
    with pytest.raises(WorkerFailed):
        build(JOB, here, work)
    name = build(JOB, there, work)
    assert find(name, there).summary == {"begun": 5}
    assert build(JOB, third, lambda directory: pytest.fail("it is there already")) == name
    assert find(name, third).file("rows.txt").read_text() == "begun at 5"
    assert find(name, machine(tmp_path, "fourth")).summary == {"begun": 5}, "a parent is fetched"
    assert not bucket.halves and not [key for key in bucket.held() if "/.work/" in key]
    for folder in tmp_path.rglob("*"):
        assert not folder.is_file() or SECRET.encode() not in folder.read_bytes(), folder
    assert not [key for key, value in bucket.held().items() if SECRET.encode() in value]


@pytest.mark.drill
def test_one_machine_builds_and_the_other_is_told_who(
    prefect: None, bucket: ObjectStore, tmp_path: Path
) -> None:
    at_work, over = threading.Event(), threading.Event()
    here = machine(tmp_path, "here")

    def hold() -> None:
        directory = tmp_path / "held"
        with mirror_of(here, print).working(JOB.kind, JOB.digest, directory):
            at_work.set()
            over.wait(60)

    holding = threading.Thread(target=hold)
    holding.start()
    at_work.wait(60)
    with pytest.raises(StoreBusy, match=f"{here.home}.* builds it"):
        build(JOB, machine(tmp_path, "there"), work)
    over.set()
    holding.join()


@pytest.mark.drill
def test_what_could_not_be_sent_is_sent_by_the_next_run(
    prefect: None, bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.objects.PAUSES", ())
    here = machine(tmp_path, "here")

    def cut(directory: Path) -> dict[str, Any]:
        bucket.begin(lambda kind, number: "refused" if kind == "write" else "")
        return {}

    with pytest.raises(RemoteFailed, match="what is committed here stays"):
        build(JOB, here, cut)
    bucket.begin()
    assert Store(here.store_root).find(JOB.kind, JOB.digest) and not Remote(URL).manifests()
    build(JOB, here, cut)
    assert [manifest.digest for manifest in Remote(URL).manifests()] == [JOB.digest]


@pytest.mark.parametrize(
    "value",
    [
        f"remote_store=s3://key:{SECRET}@bucket/x",
        f"mlflow_uri=postgresql://llama2:{SECRET}@host/mlflow",
        f"mlflow_uri=postgresql://llama2@host/mlflow?password={SECRET}",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigError, match="give it by the environment") as refused:
        changed(Profile, {}, [f"runtime.{value}"], "profile")
    assert SECRET not in str(refused.value) and SECRET not in repr(refused.value.__cause__)


# Builds a stage whose checkpoints come slowly, on the machine that argv names.
BUILDER = """
import sys, time
from pathlib import Path
from storage import lease
from storage.artifacts import Store
from tasks import mirror
from tasks.mirror import mirror_of
from tasks.runtime import Runtime
mirror.SAVE_SECONDS, lease.LEASE_SECONDS = 0.05, 1.0
home, url, kind, digest = sys.argv[1:]
runtime = Runtime(home=Path(home), remote_store=url)
store = Store(runtime.store_root)
with store.building(kind, digest) as directory, mirror_of(runtime, print).working(kind, digest, directory):
    for step in range(1, 1000):
        folder = directory / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(str(step))
        (directory / "metrics.jsonl").write_text('{"step": 1}' * step)
        print(step, flush=True)
        time.sleep(0.2)
"""


@pytest.mark.drill
def test_a_machine_that_vanishes_is_waited_out(bucket: ObjectStore, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "here"), URL, JOB.kind, JOB.digest]
    with subprocess.Popen(command, cwd=root, text=True, stdout=subprocess.PIPE) as child:
        deadline = time.monotonic() + 60
        while not any(key.endswith("progress.json") for key in bucket.held()):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.1)
        child.kill()
    directory = tmp_path / "there" / "artifacts" / ".partial" / JOB.digest
    directory.mkdir(parents=True)
    said: list[str] = []
    with mirror_of(machine(tmp_path, "there"), said.append).working(JOB.kind, JOB.digest, directory):
        reached = sorted(path.name for path in (directory / "checkpoints").iterdir())
        assert said == [f"  goes on from another machine's {reached[-1]}"]
        for name in reached:
            assert int((directory / "checkpoints" / name / "state.json").read_text()) == int(name[5:])
    assert not bucket.halves and (directory / "metrics.jsonl").exists()
