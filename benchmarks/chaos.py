"""Kills at random moments: does every training stage still end where it would have ended?

`python -m benchmarks.chaos [TRIALS [STAGE ...]]` starts a stage as flows do, a parent and its worker, kills one of them
or both, or asks the parent to end (SIGTERM), lets a second run finish, and compares the weights bit for bit. All with
dropout, so that random streams count. It prints where each kill came.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # before prefect is imported

import numpy as np
import psutil
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from llama2_core.chat import assistant, user
from llama2_core.config import GRADES, LoopConfig, LoRAConfig, ModelConfig, OptimizerConfig, Variant
from llama2_core.data.mixture import Segment
from llama2_core.tokenizer import train_tokenizer
from storage.artifacts import Store
from storage.metrics import read_metrics
from storage.schemas import COMPARISONS, DEMONSTRATIONS, write_table
from storage.shards import ShardWriter
from tasks.jobs import Job
from tasks.launch import build
from tasks.mixture import write_mixture
from tasks.recipes import FineTuneRecipe, PretrainRecipe, RewardRecipe, TokensRecipe
from tasks.runtime import Runtime
from tasks.tables import dialog_to_json

VICTIMS = ("worker", "parent", "both", "SIGTERM to the parent")
STAGES = ("base", "chat", "reward")
VOCABULARY, ROW = 320, 65
OPTIMIZER = OptimizerConfig(warmup_steps=5, peak_learning_rate=1e-2)
PARENT = """
import sys
from pathlib import Path
from prefect import flow
from benchmarks.chaos import job, runtime
from tasks.launch import build
flow(lambda: build(job(sys.argv[2]), runtime(Path(sys.argv[1]))), name="chaos")()
"""


def runtime(home: Path) -> Runtime:
    return Runtime(
        home=home,
        threads=1,
        micro_rows=8,
        log_every=1,
        checkpoint_every=20,
        least_free_bytes=0,
        validate_every=50,
    )


def job(kind: str) -> Job:
    """Return a stage's job; its parents are the only artifacts of their kinds."""
    if kind == "base":
        shape = {
            "dim": 64,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "multiple_of": 16,
            "max_seq_len": 64,
        }
        model = ModelConfig(vocab_size=VOCABULARY, variant=Variant(dropout=0.1), **shape)
        recipe = PretrainRecipe(model=model, loop=LoopConfig(steps=300, rows=16, optimizer=OPTIMIZER))
        return Job("pretraining", "base", recipe, 1, {"tokens": "tokens", "tokenizer": "tokenizer"})
    if kind == "chat":
        lora = LoRAConfig(dropout=0.1)
        tune = FineTuneRecipe(epochs=12, rows=4, optimizer=OPTIMIZER, lora=lora, separate_dialogs=True)
        return Job("SFT", "chat", tune, 2, {"base": "base", "dialogs": "dialogs"})
    judge = RewardRecipe(rows=4, epochs=8, optimizer=OPTIMIZER)
    return Job("reward model", "reward", judge, 3, {"chat": "base", "comparisons1": "comparisons"})


def make_parents(home: Path) -> None:
    """Write tokens, tokenizer, dialogs and comparisons of random words into a store."""
    draws = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "seven", "apples", "and", "nine", "pears", "house", "red"]

    def text(length: int) -> str:
        return " ".join(draws.choices(words, k=length))

    def tokens(directory: Path) -> dict:
        rows = np.random.default_rng(0).integers(3, VOCABULARY, (600, ROW))
        for name, part in (("train", rows), ("validation", rows[:16])):
            with ShardWriter(directory / f"{name}-00000.parquet", ROW, VOCABULARY) as shard:
                shard.add(part, np.zeros(part.shape, dtype=bool))
                shard.about = {"source": "words"}
        write_mixture(directory, [Segment(source="words", first_row=0, rows=600, draws=600)])
        return {}

    def vocabulary(directory: Path) -> dict:
        made = train_tokenizer([text(20) for _ in range(200)], VOCABULARY, ["[INST]", "[/INST]"])
        (directory / "tokenizer.model").write_bytes(made.model)
        return {}

    def dialogs(directory: Path) -> dict:
        talk = [dialog_to_json((user(text(6)), assistant(text(8)))) for _ in range(300)]
        row = {"kind": "open", "safety": False, "quality": "good"}
        rows = [{"id": str(number), "dialog": dialog, **row} for number, dialog in enumerate(talk)]
        write_table(directory / "demonstrations.parquet", rows, DEMONSTRATIONS)
        return {}

    def comparisons(directory: Path) -> dict:
        models = {"chosen_model": "newest", "rejected_model": "other"}
        models |= {"chosen_temperature": 0.8, "rejected_temperature": 1.0}
        safe = {"safety_bin": "", "chosen_safe": True, "rejected_safe": True, "safety": False}
        told = {"batch": "1", "kind": "open", "annotator": "chaos", "turns": 1, **models, **safe}
        rows = [
            {
                **dict.fromkeys(COMPARISONS.names),
                **told,
                "id": str(number),
                "prompt_id": str(number),
                "held_out": number % 10 == 0,
                "grade": draws.choice(GRADES),
                "dialog": dialog_to_json((user(text(6)),)),
                "chosen": text(9),
                "rejected": text(5),
            }
            for number in range(300)
        ]
        write_table(directory / "comparisons.parquet", rows, COMPARISONS)
        return {}

    works = {"tokens": tokens, "tokenizer": vocabulary, "dialogs": dialogs, "comparisons": comparisons}
    for kind, work in works.items():
        build(Job(kind, kind, TokensRecipe()), runtime(home), work)


@dataclass
class Ground:
    """Where trials take place: homes with parents, and what straight runs made of them."""

    folder: Path
    weights: dict[str, str]
    steps: dict[str, int]

    def home(self, kind: str, name: str) -> Path:
        """Return a new home in which the stage can start."""
        home = self.folder / name
        shutil.copytree(self.folder / ("parents" if kind == "base" else "base"), home)
        return home


@contextmanager
def ground(kinds: Sequence[str]) -> Iterator[Ground]:
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=180):
        made = Ground(Path(folder), {}, {})
        make_parents(made.folder / "parents")
        for kind in dict.fromkeys(("base", *kinds)):
            home = made.home(kind, kind)
            assert start(home, kind).wait() == 0, (home / "log").read_text()
            path = Store(home / "artifacts").resolve(kind).path
            made.steps[kind] = read_metrics(path / "metrics.jsonl")[-1]["of"]
            made.weights[kind] = digest(home, kind)
        yield made


def start(home: Path, kind: str) -> psutil.Popen:
    environment = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(Path.cwd())}
    with (home / "log").open("a") as log:
        return psutil.Popen(
            [sys.executable, "-c", PARENT, str(home), kind],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def digest(home: Path, kind: str) -> str:
    weights = Store(home / "artifacts").resolve(kind).path / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def steps_made(home: Path) -> int:
    rows = [row for log in home.glob("artifacts/.partial/*/metrics.jsonl") for row in read_metrics(log)]
    return max((row["step"] for row in rows), default=0)


def trial(where: Ground, kind: str, victim: str, draws: random.Random, name: str) -> str:
    """Kill a run of a stage, finish it, and return where the kill came. Raises AssertionError for other weights."""
    home = where.home(kind, name)
    parent = start(home, kind)
    target = draws.randrange(where.steps[kind])
    while steps_made(home) < target and parent.poll() is None:
        time.sleep(0.02)
    time.sleep(draws.uniform(0, 0.1))
    workers = [
        child for child in parent.children(recursive=True) if "tasks.worker" in " ".join(child.cmdline())
    ]
    if victim == "SIGTERM to the parent":
        parent.send_signal(signal.SIGTERM)
    else:
        for process in (*(workers if victim != "parent" else ()), *([parent] if victim != "worker" else ())):
            if process.is_running():
                process.kill()
    status = parent.wait()
    psutil.wait_procs(workers, timeout=30)
    came = f"step {steps_made(home)}" if status else "after its end"
    assert start(home, kind).wait() == 0, (home / "log").read_text()[-3000:]
    assert digest(home, kind) == where.weights[kind], f"{name}: {kind}, {victim}, {came}: other weights"
    shutil.rmtree(home)
    return came


def main(trials: int, kinds: Sequence[str]) -> None:
    draws = random.Random(0)
    with ground(kinds) as where:
        for kind in kinds:
            moments: Counter[str] = Counter()
            for number in range(trials):
                victim = VICTIMS[number % len(VICTIMS)]
                came = trial(where, kind, victim, draws, f"{kind}-{number}")
                moments["in training" if came.startswith("step ") and came != "step 0" else came] += 1
                print(f"{kind} {number + 1}: {victim}, {came}: same weights", flush=True)
            print(f"{kind}: {trials} of {trials} the same, {dict(moments)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 30, sys.argv[2:] or STAGES)
