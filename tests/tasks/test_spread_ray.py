"""Groups on a real Ray cluster of two workers; a worker, the flow or the head is killed: the same bytes as in turn."""

import importlib.util
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from llama2_core.data.quality import GopherQuality, QualityRules
from llama2_core.tokenizer import Tokenizer
from storage.disk import content_digest
from tasks.corpus_recipe import CorpusRecipe, FileSource

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(1200),  # of a busy machine
    pytest.mark.skipif(
        importlib.util.find_spec("prefect_ray") is None,
        reason='no Ray: pip install "llama2-pipeline[ray]"',
    ),
]
ROOT = Path(__file__).parents[2]
GROUPS = 12
KILLS = int(os.environ.get("RAY_KILLS", "1"))
"""Of each kind."""
SEEN = (
    "*.parquet",
    "documents/*",
    "dropped/*",
    "checkpoints/*.parquet",
    "checkpoints/filtered/*/*",
    "shards/*",
)
BUILD = """
import sys
from functools import partial
from pathlib import Path
from prefect import flow
from tasks import corpus_sources
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe
from tasks.recipes import TokensRecipe
from tasks.runtime import Runtime
from tasks.spread import in_turn, spread
from tasks.token_groups import Encoding
from tasks.tokens import write_tokens

corpus_sources.GROUP_BYTES = 1
address, directory = sys.argv[1], Path(sys.argv[2])
recipe = CorpusRecipe.model_validate_json(Path("recipe.json").read_text())
runtime = Runtime(data_workers=2, ray_address=address)
over = partial(spread, runtime=runtime) if address else in_turn
mix = TokensRecipe(row_tokens=65, validation_share=0.1, prose_share=0.8, problem_share=0.2)

def work():
    summary = build_corpus(recipe, directory, over)
    assert summary["duplicates"]["near"] > 40
    encoding = Encoding(mix, Path("tokenizer.model").absolute(), 0, 1, (directory / "shards").absolute())
    encoding.directory.mkdir(exist_ok=True)
    write_tokens(encoding, directory / "documents", {}, over)

flow(work, name="corpus")()
"""
Start = Callable[[str, str], subprocess.Popen[bytes]]
Whole = tuple[Path, dict[str, str]]


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
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # else a client is refused now and then (docs/data.md)
            "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5",
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "90",  # all of it if that server died
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
        }


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], tokenizer: Tokenizer
) -> Whole:
    """Return a folder with texts, a tokenizer and recipe.json, and the content of corpus and shards built in turn."""
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
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    (folder / "whole").mkdir()
    build = [sys.executable, "-c", BUILD, "", "whole"]
    subprocess.run(build, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, check=True)
    return folder, content(folder / "whole")


def content(directory: Path) -> dict[str, str]:
    """Return the digest of every file of a build, but for those that are hidden while they are written."""
    paths = [path for pattern in SEEN for path in directory.glob(pattern) if not path.name.startswith(".")]
    return {str(path.relative_to(directory)): content_digest(path) for path in paths}


@pytest.fixture
def start(environment: dict[str, str], whole: Whole) -> Iterator[Start]:
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
            wait(lambda: "Ray runtime started" in said.read_text() and listens(port), head)
            yield f"ray://127.0.0.1:{port}", head
        finally:
            kill(head)


def listens(port: int) -> bool:
    """Tell whether clients can come; Ray says that it has started seconds before."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def kill(process: psutil.Process) -> None:
    """Kill a process and all below it, and wait for their end."""
    if process.is_running():
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive


def wait(ready: Callable[[], Any], process: subprocess.Popen | psutil.Popen) -> Any:
    while not (found := ready()):
        assert process.poll() is None, "it ended"
        time.sleep(0.1)
    return found


def working(head: psutil.Process) -> list[psutil.Process]:
    """Return the processes that are at work on a group."""
    return [process for process in head.children(recursive=True) if "ray::group" in cmdline(process)]


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_cluster_of_this_machine_makes_the_same_bytes(start, whole, environment) -> None:
    assert start("local", "local").wait() == 0, (whole[0] / "local.log").read_text()
    assert content(whole[0] / "local") == whole[1]
    assert not [p for p in psutil.process_iter() if environment["RAY_TMPDIR"] in cmdline(p)]


@pytest.mark.parametrize("kill", range(KILLS))
@pytest.mark.parametrize("victim", ["worker", "flow", "head"])
def test_a_kill_at_a_random_moment_changes_no_byte(victim, kill, start, whole, environment) -> None:
    directory = killed_and_finished(victim, random.Random(f"{victim} {kill}"), start, whole, environment)
    assert content(directory) == whole[1]


def killed_and_finished(
    victim: str, draws: random.Random, start: Start, whole: Whole, environment: dict[str, str]
) -> Path:
    """Kill -9 a worker, the flow or the head during a build, finish it and return where; no file is seen in part."""
    name, moment = f"{victim}-{draws.getrandbits(32)}", draws.randrange(len(whole[1]) - 10)
    directory, log = whole[0] / name, whole[0] / f"{name}.log"

    def seen() -> int:
        found = content(directory)
        assert found.items() <= whole[1].items(), "a file is seen in part"
        return len(found)

    def status(run: subprocess.Popen[bytes]) -> int:
        while run.poll() is None:
            seen()
            time.sleep(0.1)
        return run.returncode

    with ExitStack() as clusters:
        address, head = clusters.enter_context(cluster(environment))
        run = start(address, name)
        workers = wait(lambda: seen() >= moment and working(head), run)
        match victim:
            case "worker":
                draws.choice(workers).kill()
            case "flow":
                run.kill()
            case "head":
                kill(head)
        kept = written(directory)
        expected = {"worker": 0, "flow": -signal.SIGKILL, "head": 1}
        assert status(run) == expected[victim], log.read_text()
        if victim == "head":
            error = log.read_text().splitlines()[-1]
            assert re.fullmatch(
                r"tasks\.spread\.WorkersLost: \w+: workers do not answer \(.+ are kept\.", error
            )
            address, _ = clusters.enter_context(cluster(environment))
        if victim != "worker":
            assert status(start(address, name)) == 0, log.read_text()
    assert written(directory).items() >= kept.items()
    return directory


def written(directory: Path) -> dict[Path, int]:
    """Return when each group was done."""
    done = directory.glob("checkpoints/filtered/*/counts.json")
    return {path: path.stat().st_mtime_ns for path in done}
