"""How long the sandbox takes for pass@10 of HumanEval: 164 canonical solutions, ten times each.

`python -m benchmarks.sandbox [--workers 2]`. Reads ../shared/data/humaneval.
"""

import argparse
import gzip
import json
import time
from collections import Counter
from pathlib import Path

from tasks.sandbox import run_all

PROBLEMS = Path(__file__).parents[2] / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
SAMPLES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    rows = [json.loads(line) for line in gzip.decompress(PROBLEMS.read_bytes()).splitlines()]
    programs = [
        f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})\n"
        for row in rows
    ]
    began = time.perf_counter()
    outcomes = Counter(verdict.outcome for verdict in run_all(programs * SAMPLES, workers))
    print(
        f"{outcomes.total()} programs, {workers} at a time: {time.perf_counter() - began:.1f} s, {outcomes}"
    )


if __name__ == "__main__":
    main()
