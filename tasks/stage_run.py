"""A stage's run in MLflow: what it is made from, its curves, what it made."""

import time
from pathlib import Path
from typing import Any

from storage.artifacts import Artifact, Store
from storage.errors import Unreachable
from storage.metrics import Tail
from storage.tracking import Machine, Tracker, points
from tasks.jobs import TRAINED, Job
from tasks.progress import say
from tasks.runtime import Runtime

TELL_SECONDS = 5.0
"""MLflow is told of curves in batches: a write takes a core from the worker for 50 ms."""


def tracker(runtime: Runtime) -> Tracker:
    return Tracker(runtime.tracking_uri, runtime.experiment, runtime.home / "mlflow")


def start_run(job: Job, runtime: Runtime, tracking: Tracker) -> str:
    """Return the stage's run in MLflow: the unfinished one, or a new one."""
    tags = {"llama2.kind": job.kind, "llama2.digest": job.digest, "llama2.label": job.label}
    tags |= {f"llama2.parent.{role}": name for role, name in job.parents.items()}
    run_id = tracking.start(job.label, job.digest, tags, runtime.parent_run)
    store = Store(runtime.store_root)
    for role, name in job.parents.items():
        if (parent := store.find(*name.split("/"))) and parent.kind not in TRAINED:
            tracking.log_input(run_id, role, parent.name, parent.digest, parent.path, parent.summary)
    return run_id


class Curves:
    """A worker's metrics on their way to MLflow, in batches; while it cannot be told, they are kept for it."""

    def __init__(self, path: Path, tracking: Tracker, run_id: str) -> None:
        self._tail = Tail(path, tracking.last_step(run_id, "of"))
        self._tracking, self._run_id = tracking, run_id
        self._machine = Machine()
        self._untold: list[Any] = []
        self._due = 0.0
        self._lost_touch = False

    def follow(self, status: int | None) -> dict[str, Any] | None:
        """Take up new rows and return the last of them; tell MLflow when it is time, or the worker has a status.

        Raises Unreachable when all is done but for that; what a worker died of is more to the point.
        """
        rows = self._tail.new_rows()
        self._untold += points(rows)
        if self._untold and (status is not None or time.monotonic() > self._due):
            if rows:
                self._untold += points([{"step": rows[-1]["step"], **self._machine.look()}])
            self._tell(done=status == 0)
        return rows[-1] if rows else None

    def _tell(self, done: bool) -> None:
        self._due = time.monotonic() + TELL_SECONDS
        try:
            self._tracking.log_points(self._run_id, self._untold, patient=done)
        except Unreachable:
            if done:
                raise
            if not self._lost_touch:
                say(
                    "[yellow]MLflow cannot be told of curves now. The stage goes on; they are kept for it.[/]"
                )
            self._lost_touch = True
            return
        if self._lost_touch:
            say("[yellow]MLflow answers again and was told of all curves.[/]")
        self._untold, self._lost_touch = [], False


def record(artifact: Artifact, label: str, tracking: Tracker, run_id: str) -> None:
    """Put a committed artifact's numbers on its run."""
    numbers, manifest = flat_numbers(artifact.summary), artifact.manifest
    used = {name: getattr(manifest, name) for name in ("wall_seconds", "energy_kwh", "kg_co2")}
    last = tracking.last_step(run_id, "of")  # a loss that is a curve's too is not its beginning
    tracking.log_points(run_id, points([{"step": last, **numbers, **used}]))
    tracking.set_tags(run_id, {"llama2.energy_method": manifest.energy_method})
    tracking.log_file(run_id, artifact.path / "manifest.json")
    if artifact.kind in TRAINED:
        tracking.log_model(run_id, label, artifact.kind, artifact.digest, artifact.path)


def flat_numbers(facts: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a nested dict under slash-joined names; lists and texts are left out."""
    numbers: dict[str, float] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            numbers |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers
