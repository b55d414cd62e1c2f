"""What orchestration costs: a profile run by Prefect and MLflow, then its stages again, called directly.

`python -m benchmarks.overhead [--profile ci] [--set path=value]`. The command is timed from its start to its end. Then
one process, without Prefect and MLflow, is given the same stages one after the other, and makes them from the same
parents; what stages took that run in the parent's own process is added as it was measured there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deployments.profiles import load_profile
from storage.artifacts import Artifact, Store
from tasks.runtime import Execution
from tasks.worker import STAGES

ALLOWED_SECONDS, ALLOWED_SHARE = 10.0, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "var"
        changes = [*chosen.changes, f"runtime.home={home}"]
        command = [sys.executable, "-m", "deployments.cli", "run", "--profile", chosen.profile]
        started = time.perf_counter()
        subprocess.run([*command, *(f"--set={change}" for change in changes)], check=True)
        orchestrated = time.perf_counter() - started
        execution = load_profile(chosen.profile, changes).runtime.model_dump(
            mode="json", include=set(Execution.model_fields)
        )
        made = Store(home / "artifacts").artifacts()
        worked = [artifact for artifact in made if artifact.kind in STAGES]
        here = sum(each.manifest.wall_seconds for each in made if each not in worked)
        direct = called_directly(worked, execution, Path(folder))
    whole = direct + here
    print(f"orchestrated {orchestrated:.1f} s, {len(made)} stages")
    print(f"directly     {whole:.1f} s, of these {here:.1f} s are stages of the parent's own process")
    cost, allowed = orchestrated - whole, ALLOWED_SECONDS + ALLOWED_SHARE * whole
    print(f"orchestration costs {cost:.1f} s ({100 * cost / whole:.1f}%); {allowed:.1f} s are allowed")


def called_directly(stages: list[Artifact], execution: dict[str, Any], folder: Path) -> float:
    """Return the seconds that one worker takes for stages, from the start of its process."""
    root = next(iter(stages)).path.parents[1]
    directories = []
    for number, artifact in enumerate(stages):
        directory = folder / "direct" / str(number)
        directory.mkdir(parents=True)
        manifest = artifact.manifest
        recipe = {name: value for name, value in manifest.recipe.items() if name != "seed"}
        parents = {role: os.path.relpath(root / name, directory) for role, name in manifest.parents.items()}
        order = {"kind": manifest.kind, "recipe": recipe, "seed": manifest.recipe["seed"]}
        (directory / "job.json").write_text(json.dumps({**order, "parents": parents, "settings": execution}))
        directories.append(directory)
    started = time.perf_counter()
    said = "".join(f"{directory}\n" for directory in directories)
    environment = {**os.environ, "OMP_NUM_THREADS": str(execution["threads"])}
    subprocess.run([sys.executable, "-m", "tasks.worker"], input=said, text=True, check=True, env=environment)
    assert all((directory / "DONE").exists() for directory in directories)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
