"""How long it takes to search training tokens for HumanEval, GSM8K and MMLU-redux, and what planted copies are found.

`python -m benchmarks.contamination [--tokens 100000000]`. Needs ../shared/data. The training tokens are real text in an
order that is drawn anew every 64 tokens; one sample in twenty is planted: verbatim, with 4 tokens changed, or in two.
"""

import argparse
import gzip
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llama2_core.evaluation.contamination import SampleIndex, scan_all
from llama2_core.tokenizer import Tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data"
PIECE = 1 << 20


def texts() -> Iterator[str]:
    """Yield the benchmarks' questions with their answers."""
    problems = gzip.decompress((DATA / "humaneval" / "HumanEval.jsonl.gz").read_bytes()).decode()
    for line in [*problems.splitlines(), *(DATA / "gsm8k" / "train.jsonl").read_text().splitlines()]:
        row = json.loads(line)
        yield (
            row["question"] + row["answer"]
            if "question" in row
            else row["prompt"] + row["canonical_solution"]
        )
    for path in sorted((DATA / "mmlu_redux").glob("*.csv")):
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()[
            1:
        ]  # question;choices;answer...


def training(total: int, pool: np.ndarray, planted: list[list[int]], seed: int) -> Iterator[np.ndarray]:
    """Yield so many tokens in pieces, with the copies spread over them."""
    draw, made, waiting = np.random.default_rng(seed), 0, list(planted)
    each = len(waiting) * PIECE // total + 2
    while made < total:
        starts = draw.integers(0, len(pool) - 64, PIECE // 64)
        piece = pool[(starts[:, None] + np.arange(64)).reshape(-1)].copy()
        for place in draw.choice(PIECE // 4096, each, replace=False) * 4096:
            if waiting:
                copy = waiting.pop()
                piece[place : place + len(copy)] = copy
        made += len(piece)
        yield piece


def copies(samples: list[list[int]], seed: int) -> dict[int, list[int]]:
    """Return sample -> its copy: whole, with up to 4 tokens changed behind the tenth, or in two parts."""
    draw, found = np.random.default_rng(seed), {}
    for number in range(0, len(samples), 20):
        copy = list(samples[number])
        if number % 3 == 1 and len(copy) > 30:
            for place in draw.integers(10, len(copy) - 1, 4):
                copy[place] = 0
        elif number % 3 == 2:
            copy[len(copy) // 2 : len(copy) // 2] = [0] * 8
        found[number] = copy
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    chosen = parser.parse_args()
    tokenizer = Tokenizer.load(DATA / "llama2_tokenizer" / "tokenizer.model")
    started = time.monotonic()
    samples = [tokenizer.encode(text) for text in texts()]
    prose = (DATA / "web_text" / "wiki_demo.txt").read_text() + (DATA / "wikitext2" / "valid.txt").read_text()
    pool = np.array(tokenizer.encode(prose), dtype=np.int32)
    print(
        f"{len(samples):,} samples, {sum(map(len, samples)):,} tokens, encoded in {time.monotonic() - started:.0f} s"
    )
    planted = copies(samples, 0)
    started = time.monotonic()
    index = SampleIndex(samples)
    print(f"index {time.monotonic() - started:.1f} s")
    total = scan_all(index, training(chosen.tokens, pool, list(planted.values()), 0))
    seconds = time.monotonic() - started
    found = not_clean(index) & planted.keys()
    alone = SampleIndex(samples)
    scan_all(alone, (np.array(copy, dtype=np.int32) for copy in planted.values()))
    long_enough = not_clean(alone) & planted.keys()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{total:,} tokens in {seconds:.0f} s ({total / seconds / 1e6:.1f} million a second), {memory:,.0f} MiB; of "
        f"{len(planted)} planted copies {len(long_enough)} hold a match of 11 tokens, {len(found & long_enough)} found"
    )


def not_clean(index: SampleIndex) -> set[int]:
    return {number for number, share in enumerate(index.shares(10)) if share >= 0.2}


if __name__ == "__main__":
    main()
