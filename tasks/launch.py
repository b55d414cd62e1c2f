"""The parent's side of a stage: identity, reuse, child process, tracking, commit.

A stage runs in this process when it is given as a function, else in a worker (see tasks/worker.py). Either way
it works in the artifact's partial directory, and a second try resumes there.
"""

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import MissingContextError
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from llama2_core.config import Record
from llama2_core.errors import Llama2Error
from storage.artifacts import Artifact, Store, digest_of
from storage.disk import require_free_space
from storage.metrics import Tail
from storage.tracking import Tracker
from tasks.process import Meter
from tasks.runtime import Runtime
from tasks.workers import DONE, LOG, at_work

FORMAT_VERSIONS = {
    "corpus": 4,
    "tokenizer": 3,
    "tokens": 2,
    "dialogs": 6,
    "base": 4,
    "chat": 4,
    "comparisons": 3,
    "reward": 3,
    "samples": 3,
    "ppo": 4,
    "evaluation": 4,
    "verdict": 2,
    "card": 1,
}
"""Raised by one when a change of code changes what a kind holds."""

JOB, METRICS = "job.json", "metrics.jsonl"
POLL_SECONDS = 0.2
TELL_SECONDS = 5.0
"""MLflow is told of curves in batches: a write takes a core from the worker for 50 ms."""
TAIL_CHARACTERS = 4000

Work = Callable[[Path], dict[str, Any]]
console = Console()


class WorkerFailed(Llama2Error):
    """A worker ended without finishing its stage; the message holds its last lines."""


@dataclass(frozen=True)
class Done:
    """What a stage says when it has ended well."""

    summary: dict[str, Any]
    cpu_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Job:
    """One stage to be built: what it is, what defines it, what it is made from."""

    label: str
    """For people: "helpfulness reward model, round 2"."""
    kind: str
    recipe: Record
    seed: int = 0
    parents: dict[str, str] = field(default_factory=dict)
    """Role -> "kind/digest"."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Recipe fields that name raw input by place -> the same by content."""
    processes: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.recipe.model_dump(mode="json"), "seed": self.seed, **self.inputs}

    @property
    def digest(self) -> str:
        return digest_of(self.kind, FORMAT_VERSIONS[self.kind], self.identity, self.parents)


def build(job: Job, runtime: Runtime, work: Work | None = None) -> str:
    """Return "kind/digest" of the job's artifact, found in the store or built now.

    Raises StoreBusy when another process is building it, WorkerFailed when its worker dies, and what `work` raises.
    """
    store = Store(runtime.store_root)
    artifact = store.find(job.kind, job.digest)
    reused = artifact is not None
    if artifact is None:
        say(f"[bold]{job.label}[/] [dim]{job.kind}/{job.digest[:12]}[/]")
        with store.building(job.kind, job.digest) as directory:
            artifact = store.find(job.kind, job.digest) or _build(job, runtime, store, directory, work)
    else:
        say(f"[dim]{job.label}: found {artifact.name}[/]")
    _publish(job, artifact, reused, runtime)
    return f"{artifact.kind}/{artifact.digest}"


def say(line: str) -> None:
    """Print a line of rich markup, and leave it in the log of the Prefect run if there is one."""
    console.print(line)
    with suppress(MissingContextError):
        get_run_logger().info(Text.from_markup(line).plain.strip())


def find(name: str, runtime: Runtime) -> Artifact:
    """Return the artifact called "kind/digest" (or a shorter name). Raises ArtifactNotFound."""
    store = Store(runtime.store_root)
    kind, _, digest = name.partition("/")
    return store.find(kind, digest) or store.resolve(name)


def tracker(runtime: Runtime) -> Tracker:
    return Tracker(runtime.tracking_uri, runtime.experiment, runtime.home / "mlflow")


def start_run(job: Job, runtime: Runtime, tracking: Tracker) -> str:
    """Return the stage's run in MLflow: the unfinished one, or a new one."""
    tags = {"llama2.kind": job.kind, "llama2.digest": job.digest, "llama2.label": job.label}
    tags |= {f"llama2.parent.{role}": name for role, name in job.parents.items()}
    return tracking.start(job.label, job.digest, tags, runtime.parent_run)


def _build(job: Job, runtime: Runtime, store: Store, directory: Path, work: Work | None) -> Artifact:
    require_free_space(runtime.home, runtime.least_free_bytes)
    tracking = tracker(runtime)
    run_id = start_run(job, runtime, tracking)
    tracking.log_params(run_id, {**job.identity, "runtime": runtime.model_dump(mode="json")})
    started, status = time.monotonic(), "FAILED"
    try:
        done = (
            _run_here(job.label, work, directory)
            if work
            else _run_worker(job, runtime, directory, tracking, run_id)
        )
        wall = time.monotonic() - started
        artifact = store.commit(
            job.kind,
            job.digest,
            version=FORMAT_VERSIONS[job.kind],
            recipe=job.identity,
            parents=job.parents,
            summary=done.summary,
            wall_seconds=round(wall, 2),
            cpu_seconds=round(done.cpu_seconds, 2),
            peak_memory_bytes=done.peak_memory_bytes,
        )
        record(artifact, job.label, tracking, run_id, runtime.parent_run)
        status = "FINISHED"
        say(f"  [green]done[/] in {wall:.1f} s  [dim]{artifact.name}[/]")
        return artifact
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracking.finish(run_id, status)


def record(artifact: Artifact, label: str, tracking: Tracker, run_id: str, parent_run: str) -> None:
    """Put a committed artifact's numbers on its run and on the parent run."""
    numbers = flat_numbers(artifact.summary)
    tracking.log_metrics(run_id, {**numbers, "wall_seconds": artifact.manifest.wall_seconds})
    tracking.log_file(run_id, artifact.path / "manifest.json")
    if parent_run:
        prefix = label.replace(",", "")
        tracking.log_metrics(parent_run, {f"{prefix}/{name}": value for name, value in numbers.items()})


def flat_numbers(facts: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a nested dict under slash-joined names; lists and texts are left out."""
    numbers: dict[str, float] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            numbers |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers


def _run_here(label: str, work: Work, directory: Path) -> Done:
    meter = Meter()
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as line:
        line.add_task(label, total=None)
        return Done(work(directory), meter.cpu_seconds(), meter.peak_memory_bytes())


def _run_worker(job: Job, runtime: Runtime, directory: Path, tracking: Tracker, run_id: str) -> Done:
    """Have the stage done by a worker, forwarding its curves."""
    parents = {role: str(find(name, runtime).path.absolute()) for role, name in job.parents.items()}
    settings = runtime.model_dump(mode="json", include={"threads", "slots", "log_every", "checkpoint_every"})
    order = {"kind": job.kind, "recipe": job.recipe.model_dump(mode="json"), "seed": job.seed}
    (directory / JOB).write_text(json.dumps({**order, "parents": parents, "settings": settings}))
    tail = Tail(directory / METRICS, tracking.last_step(run_id, "of"))
    untold: list[dict[str, Any]] = []
    due = 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    bar = _progress(*columns, TimeRemainingColumn())
    with at_work(directory, job.processes, runtime.threads) as worker, bar:
        line = bar.add_task(job.label, total=None)
        while True:
            status = worker.status()
            rows = tail.new_rows()
            if rows:
                bar.update(line, completed=rows[-1]["step"], total=rows[-1].get("of"))
                untold += rows
            if untold and (status is not None or time.monotonic() > due):
                tracking.log_curve(run_id, untold)
                untold, due = [], time.monotonic() + TELL_SECONDS
            if status is not None:
                break
            time.sleep(POLL_SECONDS)
    if status != 0:
        log = directory / LOG
        last = log.read_text(errors="replace")[-TAIL_CHARACTERS:] if log.exists() else "(it wrote nothing)"
        raise WorkerFailed(f"{_failure(job.label, status, last)} Last lines of {log}:\n{last}")
    done = Done(**json.loads((directory / DONE).read_text()))
    for name in (JOB, DONE):
        (directory / name).unlink()
    return done


def _failure(label: str, status: int, last: str) -> str:
    """Return what a worker died of, from its last lines."""
    if "DiskFull" in last or os.strerror(errno.ENOSPC) in last:
        return f"{label} failed: the disk is full. Free some space and run again: finished work is kept."
    return f"{label} failed (exit status {status})."


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn(" "), *columns, console=console, transient=True, disable=not console.is_terminal
    )


def _publish(job: Job, artifact: Artifact, reused: bool, runtime: Runtime) -> None:
    """Leave a markdown artifact in Prefect."""
    tracking = tracker(runtime)
    run_id = tracking.newest(artifact.digest)
    link = f"[its run in MLflow]({runtime.mlflow_address}{tracking.run_path(run_id)})\n\n" if run_id else ""
    manifest = artifact.manifest
    facts = flat_numbers(manifest.summary)
    rows = "\n".join(f"| {name} | {value:,.4g} |" for name, value in list(facts.items())[:60])
    origin = "found in the store" if reused else f"built in {manifest.wall_seconds} s"
    made_from = ", ".join(f"{role} `{name[:30]}`" for role, name in manifest.parents.items()) or "raw inputs"
    create_markdown_artifact(
        key=artifact.kind,
        description=job.label,
        markdown=f"## {job.label}\n\n`{artifact.kind}/{artifact.digest}`, {origin}; from {made_from}.\n\n"
        f"{link}| fact | value |\n|---|---|\n{rows}\n",
    )
