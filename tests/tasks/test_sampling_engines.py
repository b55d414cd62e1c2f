"""Samples from servers that die, err, babble and dawdle: none lost, none doubled; and from llama.cpp's own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from llama2_core.chat import user
from llama2_core.errors import DataError
from llama2_core.generate import Request
from llama2_core.interop.convert import convert
from llama2_core.seeding import derive_seed
from llama2_core.training.checkpoint import load_policy
from storage.metrics import read_metrics
from storage.schemas import SAMPLES, read_table
from tasks import chat_server
from tasks.chat_server import ChatServer, ServerFailed
from tasks.rejection import samples_job
from tasks.rejection_stage import samples
from tasks.runtime import Execution
from tasks.sampling_engines import Ask, Served
from tasks.sampling_recipe import RejectionRecipe, SamplingRecipe, ServerRecipe
from tasks.sampling_stages import sample
from tasks.stage import Stage
from tasks.tables import read_prompts

ROOT = Path(__file__).parents[2]
K, PROMPTS = 3, 10
FAULTS = ("kill", "half", "500", "garbage", "no choices", "429") * 2
Asked = tuple[str, int]


class Server(ThreadingHTTPServer):
    """Says a text that question and seed decide; before that, what its script says, one entry a request."""

    def __init__(self, script: list[str], answers: int = 10**9, known: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.left, self.known = script, answers, known
        self.answered: Counter[Asked] = Counter()
        self.asked: list[dict[str, Any]] = []
        self.lock = Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def act(self, body: dict[str, Any]) -> str:
        with self.lock:
            self.asked.append(body)
            if body["model"] != "m":
                return "404"
            if self.known and not set(body) <= set(self.known):
                return "422"
            if self.script:
                return self.script.pop(0)
            if body["max_tokens"] > 1:
                self.left -= 1
            return "answer" if self.left >= 0 else "kill"

    def handle_error(self, request: Any, client_address: Any) -> None: ...


def said(question: str, seed: int) -> str:
    return f"the dog ran to {question.split()[-1]} in {seed % 2**31}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._reply(200, json.dumps({"data": [{"id": "m"}, {"id": "n"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question, seed = body["messages"][-1]["content"], body["seed"]
        text = f" {said(question, seed)} [INST] and more"
        whole = json.dumps(
            {"choices": [{"message": {"content": text, "refusal": None}, "finish_reason": "stop"}]}
        ).encode()
        match self.server.act(body):
            case "answer":
                if body["max_tokens"] > 1:
                    self.server.answered[question, seed] += 1
                self._reply(200, whole)
            case "kill":
                self.close_connection = True
            case "half":
                self._reply(200, whole[:20], len(whole))
                self.close_connection = True
            case "garbage":
                self._reply(200, b"<html>Bad gateway</html>")
            case "no choices":
                self._reply(200, b'{"choices": []}')
            case "dawdle":  # a byte at a time: no read is slow, the answer is
                self.send_response(200)
                self.send_header("content-length", str(len(whole)))
                self.end_headers()
                for byte in whole:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            case status:
                self._reply(int(status), b'{"error": "so the script says"}')

    def _reply(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *words: object) -> None: ...


@contextmanager
def serving(*script: str, **settings: Any) -> Iterator[Server]:
    with Server(list(script), **settings) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "PAUSES_SECONDS", (0.01,) * len(FAULTS))


def stage_at(server: str, parents: dict[str, Path], directory: Path, **settings: Any) -> Stage:
    directory.mkdir(exist_ok=True)
    recipe = RejectionRecipe(
        samples=K,
        prompts=PROMPTS,
        temperatures=(0.8, 1.2),
        sampling=SamplingRecipe(max_new_tokens=20),
        engine=ServerRecipe(server=server),
    )
    execution = Execution.model_validate({"threads": 1, "server_requests": 4} | settings)
    return Stage(directory, recipe.model_dump(mode="json"), 5, parents, execution)


def expected(rows: list[dict[str, Any]]) -> Counter[Asked]:
    """What a server must have answered for these rows: each prompt and sample once."""
    asked = [(json.loads(row["dialog"])[-1]["content"], row["prompt_id"], row["sample"]) for row in rows]
    return Counter((text, derive_seed(5, "reject", prompt, k) % 2**31) for text, prompt, k in asked)


def assert_whole(directory: Path, answered: Counter[Asked]) -> None:
    rows = read_table(directory / "samples.parquet", SAMPLES)
    assert len({(row["prompt_id"], row["sample"]) for row in rows}) == len(rows) == K * PROMPTS
    assert expected(rows) == answered
    assert set(answered.values()) == {1}
    for row in rows:
        seed = derive_seed(5, "reject", row["prompt_id"], row["sample"])
        assert row["response"] == said(json.loads(row["dialog"])[-1]["content"], seed)


def test_a_server_that_errs_in_every_way_loses_and_doubles_nothing(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    with serving(*FAULTS) as server:
        samples(stage_at(f"{server.address}#m", parents, tmp_path / "s"))
        assert not server.script
        assert_whole(tmp_path / "s", server.answered)
        asked = server.asked[-1]
    assert asked["stop"] == ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]
    assert (asked["top_p"], asked["top_k"], asked["min_p"]) == (1.0, -1, 0.0)
    temperatures = Counter(body["temperature"] for body in server.asked if body["max_tokens"] > 1)
    assert temperatures[0.8] > temperatures[1.2] >= PROMPTS


def test_a_dead_server_ends_the_stage_and_another_run_asks_for_what_is_missing(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    """It comes back elsewhere; the last line that was being written is torn."""
    answered: Counter[Asked] = Counter()
    for answers in (7, 13):
        with serving(answers=answers) as server:
            stage = stage_at(f"{server.address}#m", parents, tmp_path / "s")
            with pytest.raises(ServerFailed, match=rf"sample \d of prompt \d+: {server.address} does not"):
                samples(stage)
            answered += server.answered
            kept = read_metrics(stage.checkpoints / "answers.jsonl")
            assert len(kept) == sum(answered.values())
        with (stage.checkpoints / "answers.jsonl").open("a") as log:
            log.write('{"step": 99, "prompt": "0", "sam')
    with serving() as server:
        samples(stage_at(f"{server.address}#m", parents, tmp_path / "s"))
        answered += server.answered
    assert_whole(tmp_path / "s", answered)


def test_samples_that_are_all_there_need_no_server(parents: dict[str, Path], tmp_path: Path) -> None:
    with serving() as server:
        stage = stage_at(f"{server.address}#m", parents, tmp_path / "s")
        summary = samples(stage)
    for path in stage.checkpoints.glob("chunk-*"):
        path.unlink()
    assert samples(stage) == summary


def test_where_a_server_is_does_not_matter_to_who_its_samples_are() -> None:
    def digest(**engine: str) -> str:
        return samples_job(RejectionRecipe.model_validate({"engine": engine}), *"chsd", 0).digest

    here, there = (digest(kind="server", server=f"http://{host}:8000/v1#m") for host in ("a", "b"))
    assert here == there != digest(kind="built-in")


def test_a_model_that_the_server_has_not_is_told_at_once(parents: dict[str, Path], tmp_path: Path) -> None:
    with serving() as server:
        stage = stage_at(f"{server.address}#missing", parents, tmp_path / "s")
        with pytest.raises(ServerFailed, match=r"404.*\n.*lists the models m, n"):
            samples(stage)
        assert [body["model"] for body in server.asked] == ["missing"] * 2, "never asked again"


def test_a_server_that_takes_openais_fields_alone_gets_no_others(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    """As transformers serve, which answers 422 to others."""
    known = ("model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop")
    with serving(known=known) as server:
        samples(stage_at(f"{server.address}#m", parents, tmp_path / "s"))
        assert_whole(tmp_path / "s", server.answered)
        assert sum("top_k" in body for body in server.asked) == 1


def test_a_prompt_without_room_is_told_before_any_is_asked(parents: dict[str, Path], tmp_path: Path) -> None:
    config = parents["chat"] / "config.json"
    short = json.loads(config.read_text()) | {"max_seq_len": 6}
    config.write_text(json.dumps(short))
    with serving() as server:
        with pytest.raises(DataError, match=r"prompt \d+ has \d+ tokens; 1 to 5 fit this model"):
            samples(stage_at(f"{server.address}#m", parents, tmp_path / "s"))
        assert not server.asked


def test_a_server_that_dawdles_is_asked_again() -> None:
    """A byte at a time, so that no read is slow."""
    with serving("dawdle", "dawdle") as server:
        slow = replace(ChatServer.parse(f"{server.address}#m"), answer_seconds=0.5)
        with pytest.raises(ServerFailed, match=rf"{server.address} took more than 0.5 s for an answer"):
            slow.ask([user("the cat")], SamplingRecipe().at(1.0), 7)
        patient = replace(slow, answer_seconds=3.0)
        assert patient.answer([user("the cat")], SamplingRecipe().at(1.0), 7).startswith(
            " the dog ran to cat in 7"
        )
        assert len(server.asked) >= 3
        slow.close()
        patient.close()


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    class Half(Handler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'data: {"choices": [{"delta": {"content": "the cat"}}]}\n\n')
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Half) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        remote = ChatServer.parse(f"http://127.0.0.1:{server.server_port}/v1#m")
        with pytest.raises(ServerFailed, match="broke off in the middle"):
            list(remote.stream([user("hello")], SamplingRecipe().at(1.0), 0))
        server.shutdown()


def test_llama_cpp_says_what_our_sampler_says(
    parents: dict[str, Path], serve_gguf: Callable[[Path], str], tmp_path: Path
) -> None:
    """All but greedily, the same texts; hotter, more than the 40 likeliest tokens that it would draw from."""
    convert(parents["chat"], tmp_path / "model.gguf", "gguf")
    model, tokenizer = load_policy(parents["chat"])
    server = f"{serve_gguf(tmp_path / 'model.gguf')}/v1#model"
    stage = stage_at(server, parents, tmp_path / "s")
    prompts = read_prompts(parents["dialogs"], "train", tokenizer)[:4]
    served = Served(stage, ServerRecipe(server=server), prompts, K)
    greedy, wild = SamplingRecipe(max_new_tokens=12).at(1e-4), SamplingRecipe(max_new_tokens=1).at(3.0)
    asks = [Ask(prompt, 0, 1, greedy) for prompt in prompts]
    ours = sample(stage, model, tokenizer, [Request(a.prompt.tokens, a.seed, a.config) for a in asks])
    assert served.draw(asks) == ours
    assert len(set(ours)) > 1 and all(ours)
    drawn = served.draw([Ask(prompts[0], k, k, wild) for k in range(1, 150)])
    assert len(set(drawn)) > 60


LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.verbosity = 512, 4, 0
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(600)
"""


@contextmanager
def llama(path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """llama.cpp's server in a process that can be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LLAMA, path, str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stdout.readline().startswith("http")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.drill
def test_worker_and_llama_cpp_are_killed_and_every_sample_is_there_once(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    """The server first, which comes back while the worker goes on; then the worker."""
    pytest.importorskip("xllamacpp", reason="xllamacpp, which holds llama.cpp, is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    convert(parents["chat"], tmp_path / "model.gguf", "gguf")
    stage = stage_at(f"http://127.0.0.1:{port}/v1#model", parents, tmp_path / "s")
    order = {"kind": "samples", "recipe": stage.recipe | {"samples": 8, "prompts": 40}, "seed": 5}
    order |= {"parents": {role: str(path) for role, path in parents.items()}}
    order["settings"] = stage.execution.model_dump(mode="json")
    answers = stage.checkpoints / "answers.jsonl"

    def worker() -> subprocess.Popen[bytes]:
        (stage.directory / "job.json").write_text(json.dumps(order))
        return subprocess.Popen([sys.executable, "-m", "tasks.worker", str(stage.directory)], cwd=ROOT)

    def wait_for(count: int, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        while len(rows := read_metrics(answers)) < count:
            assert process.poll() is None
            time.sleep(0.002)
        return rows

    with llama(tmp_path / "model.gguf", port) as server:
        first = worker()
        wait_for(30, first)
        os.kill(server.pid, signal.SIGKILL)
    time.sleep(0.5)
    before = len(read_metrics(answers))
    with llama(tmp_path / "model.gguf", port):
        wait_for(before + 40, first)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        kept = read_metrics(answers)
        assert before + 40 <= len(kept) < 320
        assert worker().wait() == 0
    rows = read_table(stage.directory / "samples.parquet", SAMPLES)
    assert Counter((row["prompt_id"], row["sample"]) for row in rows) == Counter(
        (str(prompt), k) for prompt in range(40) for k in range(8)
    )
    logged = read_metrics(answers)
    assert logged[: len(kept)] == kept, "what was there is not asked for again"
    assert Counter((row["prompt"], row["sample"]) for row in logged).most_common(1)[0][1] == 1
    assert {(r["prompt_id"], r["sample"]): r["response"] for r in rows} == {
        (r["prompt"], r["sample"]): r["answer"] for r in logged
    }
