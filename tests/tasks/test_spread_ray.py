"""Groups on a real Ray cluster of two workers; a worker or the head is killed: the same bytes as in turn."""

import importlib.util
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from llama2_core.data.quality import GopherQuality, QualityRules
from storage.disk import content_digest
from tasks import corpus_sources
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe, FileSource

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        importlib.util.find_spec("prefect_ray") is None,
        reason='no Ray: pip install "llama2-pipeline[ray]"',
    ),
    pytest.mark.skipif(
        "LLAMA2_RAY_TESTS" not in os.environ,
        reason="starts Ray clusters, whose client was once seen to hang as it connects: set LLAMA2_RAY_TESTS=1",
    ),
]
ROOT = Path(__file__).parents[2]
GROUPS = 12
PATIENCE_SECONDS = 500  # of a busy machine; an idle one needs 30
BUILD = """
import sys
from functools import partial
from pathlib import Path
from prefect import flow
from tasks import corpus_sources
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe
from tasks.runtime import Runtime
from tasks.spread import spread

corpus_sources.GROUP_BYTES = 1
recipe = CorpusRecipe.model_validate_json(Path("recipe.json").read_text())
runtime = Runtime(data_workers=2, ray_address=sys.argv[1])
flow(lambda: build_corpus(recipe, Path(sys.argv[2]), partial(spread, runtime=runtime)), name="corpus")()
"""
Start = Callable[[str, str], subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Yield that of a cluster: on loopback, in a folder whose name is short enough for sockets, behind a token."""
    with (
        tempfile.TemporaryDirectory(prefix="ray") as folder,
        prefect_test_harness(server_startup_timeout=180),
    ):
        yield os.environ | {
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "for-tests-" * 4,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on 127.0.0.1 only
            "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5",
            "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "60",
            "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "60",
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "300",
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a folder with texts and their recipe.json, and the content of the corpus built in turn."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "texts").mkdir()
    draws = random.Random(0)
    words = [f"{draws.choice(['cat', 'house', 'river', 'stone'])}{n}" for n in range(500)]
    texts: list[str] = []
    for group in range(GROUPS):
        for _ in range(20):
            text = (
                draws.choice(texts).split() if texts and draws.random() < 0.3 else draws.choices(words, k=400)
            )
            text[draws.randrange(400)] = "changed"
            texts.append(" ".join(text))
        lines = "\n".join(json.dumps({"text": text}) for text in texts[-20:])
        (folder / "texts" / f"{group:02d}.jsonl").write_text(lines)
    recipe = CorpusRecipe(
        sources=(FileSource(name="mine", paths=("texts",)),),  # relative: workers stand elsewhere
        languages=("en", "unknown"),
        language_threshold=1.0,
        quality=QualityRules(gopher=GopherQuality(min_stop_words=0)),
    )
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(corpus_sources, "GROUP_BYTES", 1)
        summary = build_corpus(recipe, Path("whole"))
    assert summary["duplicates"]["near"] > 40
    return folder, content(folder / "whole")


def content(directory: Path) -> dict[str, str]:
    """Return the digests of all that a build leaves, but for its scratch and what a killed write left hidden."""
    files = [path.relative_to(directory) for path in sorted(directory.rglob("*.parquet"))]
    seen = [file for file in files if "checkpoints" not in file.parts and not file.name.startswith(".")]
    return {str(file): content_digest(directory / file) for file in seen}


@pytest.fixture
def start(environment: dict[str, str], whole: tuple[Path, dict[str, str]]) -> Iterator[Start]:
    with ExitStack() as started:

        def start(address: str, name: str) -> subprocess.Popen[bytes]:
            """Build the corpus below this name in a process of its own, which says why not in NAME.log."""
            (whole[0] / name).mkdir(exist_ok=True)
            log = started.enter_context((whole[0] / f"{name}.log").open("w"))
            command = [sys.executable, "-c", BUILD, address, name]
            paths = environment | {"PYTHONPATH": str(ROOT)}
            run = started.enter_context(subprocess.Popen(command, cwd=whole[0], env=paths, stderr=log))
            started.callback(run.kill)
            return run

        yield start


@contextmanager
def cluster(environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the address and the head of a cluster of two workers; nothing of it is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=0"]
    command += [f"--ray-client-server-port={port}", "--num-cpus=2", "--object-store-memory=100000000"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    said = Path(environment["RAY_TMPDIR"]) / "head.log"
    with said.open("w") as log:
        head = psutil.Popen(command, env=environment, cwd="/", stdout=log, stderr=log)
        try:
            wait(lambda: "Ray runtime started" in said.read_text(), head)
            yield f"ray://127.0.0.1:{port}", head
        finally:
            kill(head)


def kill(process: psutil.Process) -> None:
    """Kill a process and all below it, and wait for their end."""
    if process.is_running():
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive


def wait(ready: Callable[[], object], process: subprocess.Popen | psutil.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, "it ended or takes too long"
        time.sleep(0.02)


def done(directory: Path) -> list[Path]:
    return list(directory.glob("checkpoints/filtered/*/counts.json"))


def working(head: psutil.Process) -> list[psutil.Process]:
    """Return the processes that are at work on a group."""
    return [process for process in head.children(recursive=True) if "ray::group" in cmdline(process)]


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_cluster_of_this_machine_makes_the_same_bytes(start, whole, environment) -> None:
    run = start("local", "local")
    assert run.wait(PATIENCE_SECONDS) == 0, (whole[0] / "local.log").read_text()
    assert content(whole[0] / "local") == whole[1]
    assert not [p for p in psutil.process_iter() if environment["RAY_TMPDIR"] in cmdline(p)]


def test_a_worker_that_is_killed_is_replaced(start, whole, environment) -> None:
    directory = whole[0] / "worker"
    with cluster(environment) as (address, head):
        run = start(address, "worker")
        wait(lambda: len(done(directory)) > 1 and working(head), run)
        working(head)[0].kill()
        assert len(done(directory)) < GROUPS
        assert run.wait(PATIENCE_SECONDS) == 0, (whole[0] / "worker.log").read_text()
    assert content(directory) == whole[1]


def test_when_the_head_is_killed_a_second_run_goes_on(start, whole, environment) -> None:
    directory = whole[0] / "head"
    with cluster(environment) as (address, head):
        run = start(address, "head")
        wait(lambda: len(done(directory)) > 1, run)
        kill(head)
        assert run.wait(PATIENCE_SECONDS) == 1
        error = (whole[0] / "head.log").read_text().splitlines()[-1]
        assert re.fullmatch(
            r"tasks\.spread\.WorkersLost: filter: workers do not answer \(.+ are kept\.", error
        )
    kept = {path: path.stat().st_mtime_ns for path in done(directory)}
    assert 1 < len(kept) < GROUPS and not content(directory)
    with cluster(environment) as (address, _):
        run = start(address, "head")
        assert run.wait(PATIENCE_SECONDS) == 0, (whole[0] / "head.log").read_text()
    assert content(directory) == whole[1]
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
