"""lm-eval through our engine beside its own Hugging Face backend: same model, same tasks, one run.

`python -m benchmarks.harness [--limit 20] [--threads 1] [--size 5M | --model DIR] [--tasks a,b]`. Without --model
weights are random, widened so that likelihoods differ, and the tokenizer is trained on WikiText-2; a limit of 0 asks
whole sets. For each task: how far log-likelihoods are apart, whether greedy texts and scores are the same (tasks that
sample are made greedy), and the seconds that each backend takes to answer, of the processor where there is no GPU:
other programs' work does not count. The last lines add tasks up.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from benchmarks import harness_files
from llama2_core.interop.convert import assembled, convert, read
from llama2_core.model import Transformer, initialise
from llama2_core.presets import PRESETS
from llama2_core.tokenizer import Tokenizer, train_tokenizer
from llama2_core.training.checkpoint import save_model
from storage.artifacts import Store
from tasks.benchmark_data import add, newest
from tasks.benchmark_recipe import BenchmarkRecipe, TaskRecipe
from tasks.harness import Answers, HarnessModel
from tasks.harness_tasks import load_tasks

DATA = Path("../shared/data")
TASKS = (
    ("hellaswag", 0),
    ("piqa", 0),
    ("social_iqa", 0),
    ("winogrande", 0),
    ("arc_easy", 0),
    ("arc_challenge", 0),
    ("openbookqa", 0),
    ("truthfulqa_mc1", 0),
    ("truthfulqa_mc2", 0),
    ("boolq", 0),
    ("commonsense_qa", 7),
    ("mmlu", 5),
    ("cmmlu", 5),
    ("arc_challenge", 25),
    ("gsm8k_cot", 8),
    ("math_4shot", 4),
    ("nq_open", 5),
    ("squad", 0),
    ("bbh_cot_fewshot", 3),
    ("svamp", 0),
    ("mawps", 0),
    ("toxigen_prompts", 0),
    ("truthfulqa_judged", 0),
)
"""Task, or the family whose subjects' files are there, and shots."""
FAMILIES = {
    "mmlu": ("mmlu_redux", "mmlu_*.csv"),
    "cmmlu": ("cmmlu", "*.csv"),
    "bbh_cot_fewshot": ("bbh", "*.json"),
}
"""Family -> folder of its subjects' files."""
CONTEXT = 4096
clock = time.perf_counter if torch.cuda.is_available() else time.process_time


class Timed:
    """Seconds spent in the answers of a model."""

    def __init__(self, lm: Any) -> None:
        self.seconds = 0.0
        for name in ("loglikelihood", "generate_until"):
            setattr(lm, name, self._timed(getattr(lm, name)))

    def _timed(self, answer: Any) -> Any:
        def timed(*of: Any, **named: Any) -> Any:
            started = clock()
            try:
                return answer(*of, **named)
            finally:
                self.seconds += clock() - started

        return timed


def random_model(size: str, texts: list[str]) -> tuple[Transformer, Tokenizer]:
    config = PRESETS[size].model_copy(update={"max_seq_len": CONTEXT})
    model = Transformer(config)
    initialise(model, config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model.eval(), train_tokenizer(texts, config.vocab_size)


def trained_model(path: Path) -> tuple[Transformer, Tokenizer]:
    opened = read(path)
    longer = opened.config.model_copy(update={"max_seq_len": CONTEXT})
    return assembled(replace(opened, config=longer)), opened.tokenizer


def subjects(data: Path) -> Iterator[tuple[str, str, int]]:
    """Give every task with the name in the list above, and its shots."""
    for name, shots in TASKS:
        if name not in FAMILIES:
            yield name, name, shots
            continue
        folder, files = FAMILIES[name]
        for path in sorted((data / folder).glob(files)):
            yield name, f"{name}_{path.stem.removeprefix('mmlu_')}", shots


def compare(
    name: str, shots: int, local: dict[str, Path], theirs: Any, mine: HarnessModel, limit: int, scratch: Path
) -> tuple[bool, list[float]]:
    """Print a task's line; return whether it is answered with texts, and the seconds of theirs and of ours."""
    asked = BenchmarkRecipe(tasks=(TaskRecipe(name=name, shots=shots),), limit=limit or None)
    seconds, samples, results = [], [], []
    for lm in (theirs, mine):
        tasks = load_tasks(asked, local, scratch)
        for task in tasks["tasks"].values():
            if task.config.generation_kwargs:
                greedy = {"do_sample": False, "temperature": 0.0}
                task.set_config("generation_kwargs", greedy, update=True)
        timed = Timed(lm)
        found: Any = evaluate(lm, tasks, limit=limit or None, bootstrap_iters=0)
        seconds.append(timed.seconds)
        samples.append(next(iter(found["samples"].values())))
        results.append(next(iter(found["results"].values())))
    apart, texts, same = 0.0, 0, 0
    for one, other in zip(*samples, strict=True):
        for answer, reply in zip(one["resps"], other["resps"], strict=True):
            texts += isinstance(answer[0], str)
            if isinstance(answer[0], str):
                same += answer == reply
            else:
                apart = max(apart, abs(answer[0][0] - reply[0][0]))
    kind = f"{same}/{texts} texts" if texts else f"{apart:.1e} nats"
    equal = "same" if all(_near(results[1][name], value) for name, value in results[0].items()) else "OTHER"
    ratio = seconds[0] / seconds[1]
    counts = f"{name:36} {shots:>5} {len(samples[0]):>5} {kind:>14} {equal:>7}"
    print(f"{counts} {seconds[0]:8.2f} {seconds[1]:8.2f} {ratio:6.1f}x", flush=True)
    return bool(texts), seconds


def _near(one: Any, other: Any) -> bool:
    """Scores that are made of likelihoods differ as these do."""
    numbers = isinstance(one, float) and isinstance(other, float)
    return abs(one - other) < 1e-3 if numbers else one == other


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16, help="Of the Hugging Face backend, and our slots.")
    parser.add_argument("--size", default="5M", choices=PRESETS)
    parser.add_argument(
        "--model", type=Path, help="A trained one, which ends its answers; its context is raised."
    )
    parser.add_argument("--tasks", default="", help="Of the list, joined by commas; all when left out.")
    parser.add_argument("--data", type=Path, default=DATA)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = Store(folder / "artifacts")
        add([harness_files.write(chosen.data, folder / "files")], store, partial=True)
        local = {name: artifact.path for name, artifact in newest(store).items()}
        texts = (chosen.data / "wikitext2" / "valid.txt").read_text().splitlines()
        model, tokenizer = trained_model(chosen.model) if chosen.model else random_model(chosen.size, texts)
        save_model(folder / "ours", model, tokenizer)
        convert(folder / "ours", folder / "theirs", "huggingface")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        theirs = HFLM(
            pretrained=str(folder / "theirs"), device=device, batch_size=chosen.batch, dtype="float32"
        )
        print(
            f"{chosen.model or chosen.size}, float32, {device}, {chosen.threads} threads, "
            f"batches and slots of {chosen.batch}"
        )
        print(
            f"{'task':36} {'shots':>5} {'n':>5} {'apart or same':>14} {'scores':>7} {'theirs s':>8} {'ours s':>8}"
        )
        spent = {False: [0.0, 0.0], True: [0.0, 0.0]}
        for listed, name, shots in subjects(chosen.data):
            if {listed, name} & set((chosen.tasks or name).split(",")):
                answers = Answers(folder / f"{name}-{shots}.jsonl", folder / "metrics.jsonl")
                mine = HarnessModel(model.to(device), tokenizer, answers, slots=chosen.batch)
                texts, seconds = compare(name, shots, local, theirs, mine, chosen.limit, folder / "rows")
                spent[texts] = [sum(pair) for pair in zip(spent[texts], seconds, strict=True)]
        for texts, (theirs_s, ours_s) in spent.items():
            if ours_s:
                kind = "all that is generated" if texts else "all of likelihoods"
                print(f"{kind:73} {theirs_s:8.1f} {ours_s:8.1f} {theirs_s / ours_s:6.1f}x")


if __name__ == "__main__":
    main()
