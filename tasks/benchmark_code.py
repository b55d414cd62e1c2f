"""Benchmarks of code: what a model wrote, run with the tests in a sandbox. Llama 2 section A.2.2."""

from collections.abc import Sequence
from typing import Any

from tasks.sandbox import run


def humaneval(document: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the completed function passes its check. Raises SandboxMissing."""
    return _judged(document["prompt"] + results[0], document["test"], f"check({document['entry_point']})")


def mbpp(document: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the program passes its three tests. Raises SandboxMissing."""
    return _judged(document["test_setup_code"], results[0], *document["test_list"])


def _judged(*parts: str) -> dict[str, float]:
    return {"pass@1": float(run("\n".join(parts)).outcome == "passed")}
