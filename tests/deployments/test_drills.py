"""What goes wrong in operations, in the middle of training: each time the state is true, and nothing is lost.

Every drill trains the same model in a home of its own, from a deployment, and compares its weights with those of a run
that nothing happened to.
"""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from deployments.profiles import load_profile
from storage.artifacts import Artifact, Store
from storage.metrics import read_metrics
from storage.tracking import Tracker
from tests.stack import COMMAND, Mlflow, Stack, run, wait_for

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

ZOMBIE_SECONDS = 180
"""Within them the automation has called a silent run Crashed: 90 s, a minute for late signs, and its own rounds."""
AWAY_SECONDS = float(os.environ.get("MLFLOW_AWAY", "120"))
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long jumped(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_JUMP"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += jumped();
    return status;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""A wall clock that a file sets forward or back; monotonic clocks stay, as on a machine whose clock is set."""
STEPS = 500
DEPLOY = """
import sys
from deployments.deploy import deploy, read_deployments
from deployments.pools import read_pool
found = read_deployments()
entries = [entry for entry in found.deployments if entry.entrypoint == "flows.pretrain.pretrain"]
deploy(found.model_copy(update={"deployments": entries}), read_pool("process", "llama2"), 2, {}, "", print)
"""


class Drills(Stack):
    """A stack with the deployment of pretraining."""

    def begin(self, home: Path, variables: dict[str, Any] | None = None, **runtime: Any) -> FlowRun:
        """Ask for a flow run that trains below a home."""
        recipe = load_profile("ci", [f"recipe.pretrain.loop.steps={STEPS}"]).recipe.pretrain
        settings = {"home": str(home), "threads": 1, "checkpoint_every": 50, "log_every": 5, **runtime}
        given = {"recipe": recipe.model_dump(mode="json"), "runtime": settings}
        with self.client() as client:
            deployment = client.read_deployment_by_name("pretrain/pretrain")
            return client.create_flow_run_from_deployment(
                deployment.id, parameters=given, job_variables=variables
            )

    def now(self, made: FlowRun) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(made.id)

    def ends(self, made: FlowRun, state: str, seconds: float = 400) -> str:
        """Wait for a flow run's last state and return what it says."""

        def over() -> bool:
            now = self.now(made).state
            return bool(now and now.is_final())

        wait_for(over, seconds)
        now = self.now(made).state
        assert now and now.name == state, now
        return str(now.message)

    def trains(self, home: Path, made: FlowRun) -> tuple[psutil.Process, psutil.Process]:
        """Wait until a flow run has trained a fifth; return its process and its worker's."""
        wait_for(lambda: step_of(home) > STEPS / 5, 200)
        engine = psutil.Process(int(str(self.now(made).infrastructure_pid).rpartition(":")[2]))
        return engine, next(each for each in engine.children(recursive=True) if is_worker(each, home))


def step_of(home: Path) -> int:
    """Return how far the newest training below a home is."""
    logs = sorted((home / "artifacts").rglob("metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    rows = read_metrics(logs[-1]) if logs else []
    return rows[-1]["step"] if rows else 0


def is_worker(process: psutil.Process, home: Path) -> bool:
    """Tell whether a process works below a home: what it prints goes to a stage's log."""
    with suppress(psutil.Error, OSError):
        works = "tasks.worker" in process.cmdline()
        return works and str(Path(f"/proc/{process.pid}/fd/1").readlink()).startswith(str(home))
    return False


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def is_named(run: FlowRun, state: str) -> bool:
    return bool(run.state and run.state.name == state)


def at_work(home: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if is_worker(process, home)]


def nothing_is_left(home: Path) -> None:
    wait_for(lambda: not at_work(home), 30)  # a flow run's process ends after it has said so


def trained(home: Path) -> Artifact:
    (made,) = (each for each in Store(home / "artifacts").artifacts() if each.kind == "base")
    return made


def weights(home: Path) -> str:
    return trained(home).manifest.files["model.safetensors"].sha256


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with all that pretraining starts from."""
    home = tmp_path_factory.mktemp("tokens") / "var"
    run([*COMMAND, "run", "--profile", "ci", "--set", f"runtime.home={home}"])
    for artifact in Store(home / "artifacts").artifacts():
        if artifact.kind not in ("corpus", "tokenizer", "tokens"):
            shutil.rmtree(artifact.path)
    return home / "artifacts"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drills]:
    stack = Drills(tmp_path_factory.mktemp("stack") / "var")
    stack.python(DEPLOY)
    yield stack
    stack.down()


@pytest.fixture
def home(tmp_path: Path, tokens: Path) -> Path:
    shutil.copytree(tokens, tmp_path / "var" / "artifacts")
    return tmp_path / "var"


@pytest.fixture(scope="module")
def finished(stack: Drills, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that nothing happened to."""
    home = tmp_path_factory.mktemp("straight") / "var"
    shutil.copytree(tokens, home / "artifacts")
    stack.ends(stack.begin(home), "Completed")
    return home


@pytest.fixture(scope="module")
def straight(finished: Path) -> str:
    return weights(finished)


def goes_on(stack: Drills, home: Path, straight: str, **runtime: Any) -> None:
    """Ask again, and see that nothing was lost: no process, no lock, no step."""
    nothing_is_left(home)
    reached = step_of(home)
    stack.ends(stack.begin(home, **runtime), "Completed")
    assert weights(home) == straight
    assert reached > STEPS / 5
    assert_curve_is_whole(home, f"sqlite:///{home}/mlflow.db")


def assert_curve_is_whole(home: Path, uri: str) -> None:
    """MLflow has one run of the stage, with every row of its metrics once."""
    tracking, made = Tracker(uri, "llama2", home / "mlflow"), trained(home)
    (found,) = (each for each in tracking.runs() if each.data.tags["llama2.digest"] == made.digest)
    assert found.info.status == "FINISHED"
    history = tracking._client.get_metric_history(found.info.run_id, "tokens_per_second")
    steps = sorted(point.step for point in history)
    rows = read_metrics(made.file("metrics.jsonl"))
    assert steps == [row["step"] for row in rows if "tokens_per_second" in row]


def test_its_process_is_killed(stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home)
    engine, worker = stack.trains(home, made)
    engine.kill()
    worker.wait(10)
    stack.ends(made, "Crashed")
    goes_on(stack, home, straight)


def test_its_worker_is_killed(stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home)
    _, worker = stack.trains(home, made)
    worker.kill()
    assert "exit status -9" in stack.ends(made, "Failed")
    goes_on(stack, home, straight)


def test_prefects_worker_is_killed(stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home)
    _, worker = stack.trains(home, made)
    psutil.Process(stack.parts()["Worker"].pid).kill()
    worker.wait(20)
    stack.ends(made, "Crashed")
    wait_for(stack.is_well, 100)
    goes_on(stack, home, straight)


@pytest.mark.parametrize("server", ["Prefect", "MLflow"])
def test_a_server_is_killed(server: str, stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home, mlflow_uri=f"http://127.0.0.1:{stack.mlflow_port}", experiment=home.parent.name)
    stack.trains(home, made)
    psutil.Process(stack.parts()[server].pid).kill()
    wait_for(stack.is_well, 100)
    stack.ends(made, "Completed")
    assert weights(home) == straight
    nothing_is_left(home)


def test_mlflow_is_away_for_minutes(stack: Drills, home: Path, straight: str, tmp_path: Path) -> None:
    server = Mlflow(tmp_path)
    made = stack.begin(home, mlflow_uri=server.address)
    stack.trains(home, made)
    server.kill()
    before = step_of(home)
    time.sleep(AWAY_SECONDS)
    assert step_of(home) == STEPS > before
    server.start()
    try:
        stack.ends(made, "Completed")
    finally:
        server.kill()
    assert weights(home) == straight
    assert_curve_is_whole(home, server.database)


def test_prefects_database_is_locked(stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home)
    stack.trains(home, made)
    (database,) = stack.home.rglob("prefect.db")
    with sqlite3.connect(database, timeout=60) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        time.sleep(30)
        locked.rollback()
    stack.ends(made, "Completed")
    assert weights(home) == straight
    nothing_is_left(home)


def test_the_disk_is_full(stack: Drills, tokens: Path, straight: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(small)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        home = small / "var"
        shutil.copytree(tokens, home / "artifacts")
        made = stack.begin(home, least_free_bytes=0)
        stack.trains(home, made)
        filler = small / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        assert "the disk is full" in stack.ends(made, "Failed")
        filler.unlink()
        goes_on(stack, home, straight, least_free_bytes=0)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_the_clock_jumps(stack: Drills, home: Path, straight: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("there is no C compiler for a clock that jumps")
    source, library, clock = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "clock"
    source.write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    clock.write_text("0")
    made = stack.begin(home, {"env": {"LD_PRELOAD": str(library), "CLOCK_JUMP": str(clock)}})
    _, worker = stack.trains(home, made)
    for jump in ("3600", "-3600"):
        clock.write_text(jump)
        time.sleep(5)
    with paused(worker):  # so that signs of life are sent, and looked at, while the clock is behind
        time.sleep(ZOMBIE_SECONDS)
    assert is_named(stack.now(made), "Running")
    stack.ends(made, "Completed")
    assert weights(home) == straight
    nothing_is_left(home)
    assert trained(home).manifest.wall_seconds < 1200


def test_the_machine_sleeps(stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home)
    engine, worker = stack.trains(home, made)
    with paused(worker), paused(engine):
        wait_for(lambda: is_named(stack.now(made), "Crashed"), 2 * ZOMBIE_SECONDS)
    wait_for(lambda: is_named(stack.now(made), "Running"), 60)
    stack.ends(made, "Completed")
    assert weights(home) == straight
    nothing_is_left(home)


def test_it_is_cancelled(stack: Drills, home: Path, straight: str) -> None:
    made = stack.begin(home)
    _, worker = stack.trains(home, made)
    with stack.client() as client:  # what the button of the UI does
        client.set_flow_run_state(made.id, Cancelling())
    worker.wait(10)
    wait_for(lambda: stack.now(made).state_name == "Cancelled", 60)  # for a moment it is Crashed to Prefect
    goes_on(stack, home, straight)


def test_twenty_wait_in_the_queue(stack: Drills, finished: Path) -> None:
    with ThreadPoolExecutor(4) as asking:
        every = list(asking.map(lambda _: stack.begin(finished), range(20)))
    most = 0

    def over() -> bool:
        nonlocal most
        states = [stack.now(made).state for made in every]
        most = max(most, sum(bool(state and state.is_running()) for state in states))
        return all(state and state.is_final() for state in states)

    wait_for(over, 1000)
    assert {stack.now(made).state_name for made in every} == {"Completed"}
    assert most == 2
    nothing_is_left(finished)
