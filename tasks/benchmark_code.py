"""Benchmarks of code: what a model wrote, run with the tests in a sandbox. Llama 2 section A.2.2."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from llama2_core.evaluation.code import humaneval_program, mbpp_program, pass_at_k
from tasks.sandbox import run_all

Results = Sequence[str | Sequence[str]]
"""lm-eval's: one answer, or several samples of it."""


def humaneval(document: dict[str, Any], results: Results) -> dict[str, float]:
    """pass@1 of one answer, pass@100 of at least so many samples. Raises SandboxMissing."""
    about = document["prompt"], document["test"], document["entry_point"]
    return _passed((humaneval_program(about[0], said, *about[1:]) for said in _samples(results)), 100)


def mbpp(document: dict[str, Any], results: Results) -> dict[str, float]:
    """pass@1 of one answer, pass@80 of at least so many samples. Raises SandboxMissing."""
    tests, setup = document["test_list"], document["test_setup_code"]
    return _passed((mbpp_program(said, tests, setup) for said in _samples(results)), 80)


def _samples(results: Results) -> Sequence[str]:
    return [results[0]] if isinstance(results[0], str) else results[0]


def _passed(programs: Iterable[str], many: int) -> dict[str, float]:
    """Return the unbiased estimate of pass@k, as many programs at a time as the worker has threads."""
    passed = [verdict.outcome == "passed" for verdict in run_all(programs, torch.get_num_threads())]
    k = 1 if len(passed) == 1 else many
    return {f"pass@{k}": pass_at_k(len(passed), sum(passed), k)}
