"""What orchestration costs: a profile run through Prefect and MLflow, and the same stages called directly, in turns.

`python -m benchmarks.overhead [--profile ci] [--set path=value] [--rounds 3]`. Both begin in a new home, in a process
of their own that is timed from start to end, and do the same: plan, stages in workers, digests, commits, report.
Called directly, a flow and a task are the functions that they are made of, no server starts, and nothing is tracked.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ALLOWED_SECONDS, ALLOWED_SHARE = 10.0, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directly", action="store_true", help="only this, once, in the home that is set")
    chosen = parser.parse_args()
    if chosen.directly:
        call_directly(chosen.profile, chosen.changes)
        return
    arguments = ["--profile", chosen.profile, *(f"--set={change}" for change in chosen.changes)]
    costs, whole = [], []
    for _ in range(chosen.rounds):
        orchestrated = seconds_of("deployments.cli", "run", *arguments)
        directly = seconds_of("benchmarks.overhead", "--directly", *arguments)
        print(f"orchestrated {orchestrated:.1f} s, called directly {directly:.1f} s")
        costs.append(orchestrated - directly)
        whole.append(directly)
    cost, allowed = statistics.median(costs), ALLOWED_SECONDS + ALLOWED_SHARE * statistics.median(whole)
    spread = f"{min(costs):.1f} to {max(costs):.1f}"
    print(f"orchestration costs {cost:.1f} s ({spread}); {allowed:.1f} s are allowed")


def seconds_of(module: str, *arguments: str) -> float:
    """Return how long a program takes in a new home."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, *arguments, f"--set=runtime.home={folder}/var"]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


class Untracked:
    """What stages say to MLflow, said to nobody."""

    def __init__(self, *_: Any) -> None:
        self.children = self.versions = lambda *_: {}
        self.last_step = lambda *_: 0
        self.start = lambda *_: "untracked"

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *_, **__: ""


def undecorated(function: Callable | None = None, **_: Any) -> Callable:
    return function or undecorated


def call_directly(profile: str, changes: list[str]) -> None:
    """Run the recipe with flows and tasks as plain functions."""
    import prefect  # noqa: PLC0415
    import prefect.artifacts  # noqa: PLC0415

    prefect.flow = prefect.task = undecorated  # type: ignore[assignment]
    for name in (name for name in vars(prefect.artifacts) if name.startswith(("create_", "update_"))):
        setattr(prefect.artifacts, name, partial(dict))

    from storage import tracking  # noqa: PLC0415

    tracking.Tracker = Untracked  # type: ignore[misc]

    from deployments.profiles import load_profile  # noqa: PLC0415
    from flows.llama2 import llama2  # noqa: PLC0415

    chosen = load_profile(profile, changes)
    print(Path(llama2(chosen.recipe, chosen.runtime)))


if __name__ == "__main__":
    main()
