"""The annotation page under load: latency of pages, memory, and kills at any moment that lose nothing.

`python -m benchmarks.annotation [--seconds 120] [--annotators 20] [--kills 0] [--home HOME]`. A home may already hold a
log, of a million comparisons say. Every annotator takes a prompt, waits for both answers of two small models, judges
them and reads the pages in between; answers that are being written are not counted in the latencies. With kills the
service is killed that often (SIGKILL) and started again; whatever was acknowledged must then be in the log once.
"""

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import torch

from deployments.services.annotation.access import Access
from deployments.services.prefect_server import free_port
from llama2_core.config import ModelConfig
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import train_tokenizer
from llama2_core.training.checkpoint import save_model
from storage.preference_events import Comparison
from storage.preference_log import read_events

PAUSE_SECONDS = 1.0
BATCH = "load"


def prepare(home: Path) -> list[str]:
    """Write two models and a queue of prompts; return the command that serves them."""
    tokenizer = train_tokenizer(
        ["the cat sat on a mat and the dog ran " + str(n) for n in range(50)], 300, ["[INST]", "[/INST]"]
    )
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=64, n_layers=2, n_heads=4, n_kv_heads=4, max_seq_len=256
    )
    for seed in (0, 1):
        model = Transformer(config)
        initialise(model, config, torch.Generator().manual_seed(seed))
        save_model(home / f"model-{seed}", model, tokenizer)
    prompts = (json.dumps({"prompt": f"the cat {n}"}) for n in range(100_000))
    (home / "queue.jsonl").write_text("\n".join(prompts))
    command = [sys.executable, "-m", "deployments.cli", "annotate", "--batch", BATCH, "--home", str(home)]
    command += ["--newest", str(home / "model-0"), "--other", str(home / "model-1"), "--target", "1000000"]
    return [*command, "--queue", str(home / "queue.jsonl"), "--max-tokens", "16"]


class Service:
    """The service's process, killed and started again."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.port = free_port()
        self.command, self.log = [*command, "--port", str(self.port)], log
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Start it and return after how many seconds it answered."""
        began = time.monotonic()
        with self.log.open("ab") as output:
            self.process = psutil.Popen(self.command, stdout=output, stderr=output)
        while True:
            with suppress(httpx.HTTPError):
                httpx.get(f"{self.address}/health", verify=False)
                return time.monotonic() - began
            if self.process.poll() is not None:
                raise SystemExit(f"the service has ended: {self.log.read_text()[-2000:]}")
            time.sleep(0.2)


class Annotator(threading.Thread):
    """A person in a hurry."""

    def __init__(self, service: Service, name: str, token: str) -> None:
        super().__init__(daemon=True)
        self.service, self.annotator, self.token, self.draws = service, name, token, random.Random(name)
        self.latencies: list[float] = []
        self.acknowledged: list[tuple[str, str]] = []
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            with (
                suppress(httpx.TransportError),
                httpx.Client(base_url=self.service.address, timeout=30, verify=False) as client,
            ):
                self.client = client
                client.post("/sign-in", data={"token": self.token})
                while not self.stop:
                    self.annotate()
            time.sleep(1)  # it was killed

    def annotate(self) -> None:
        page = self.timed("GET", "/helpfulness")
        question = re.search(r'name="question" value="(\w+)"', page)
        secret = re.search(r'name="form_secret" value="(\w+)"', page)
        assert secret, page
        form = {"form_secret": secret[1]}
        if not question:
            self.timed("POST", "/helpfulness/take", form)
        elif 'name="choice"' in page:
            form |= {
                "question": question[1],
                "choice": self.draws.choice("ab"),
                "grade": "better",
                "then": "finish",
            }
            if "wait a moment" not in self.timed("POST", "/helpfulness/answer", form):
                self.acknowledged.append((question[1], self.annotator))
        else:
            with suppress(httpx.HTTPStatusError):
                self.client.get(f"/answers/{question[1]}")
        time.sleep(PAUSE_SECONDS * self.draws.random())

    def timed(self, method: str, path: str, form: dict[str, str] | None = None) -> str:
        began = time.perf_counter()
        answer = self.client.request(method, path, data=form)
        self.latencies.append(time.perf_counter() - began)
        assert answer.status_code in (200, 303, 429), (path, answer.status_code, answer.text)
        if answer.status_code == 429:  # too fast for a person
            time.sleep(2)
        return answer.text


@contextmanager
def annotating(service: Service, tokens: dict[str, str]) -> Iterator[list[Annotator]]:
    people = [Annotator(service, name, token) for name, token in tokens.items()]
    for person in people:
        person.start()
    yield people
    for person in people:
        person.stop = True
    for person in people:
        person.join(60)


def measure(home: Path, seconds: float, annotators: int, kills: int) -> None:
    service, access = Service(prepare(home), home / "service.log"), Access(home / "preferences")
    tokens = {name: access.add(name) for name in (f"annotator-{n}" for n in range(annotators))}
    print(f"the service answers {service.start():.1f} s after its start")
    draws, peak = random.Random(0), 0
    try:
        with annotating(service, tokens) as people:
            for _ in range(max(1, kills)):
                end = time.monotonic() + (draws.uniform(3, 15) if kills else seconds)
                while (left := end - time.monotonic()) > 0:
                    peak = max(peak, service.process.memory_info().rss)
                    time.sleep(min(0.5, left))
                if kills:
                    service.process.kill()
                    service.process.wait()
                    service.start()
    finally:
        service.process.terminate()
        service.process.wait()
    events = read_events(home / "preferences", BATCH)
    made = Counter((event.question, event.annotator) for event in events if isinstance(event, Comparison))
    told = [question for person in people for question in person.acknowledged]
    lost = [question for question in told if question not in made]
    twice = [question for question, count in made.items() if count > 1]
    times = sorted(latency for person in people for latency in person.latencies)
    print(
        f"{annotators} annotators, {kills} kills: {len(told)} comparisons acknowledged, {sum(made.values())} in the "
        f"log, {len(lost)} lost, {len(twice)} twice\n"
        f"{len(times)} pages: median {1000 * statistics.median(times):.1f} ms, "
        f"95% within {1000 * times[int(0.95 * len(times))]:.1f} ms; the service held {peak / 1e6:.0f} MB at most"
    )
    assert not lost and not twice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    Path("var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="annotation-", dir="var") as scratch:
        home = options.home or Path(scratch)
        measure(home, options.seconds, options.annotators, options.kills)


if __name__ == "__main__":
    main()
