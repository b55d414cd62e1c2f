"""The parent's side of a stage: identity, reuse, child process, tracking, commit.

A stage runs in this process when it is given as a function, else in a worker (see tasks/worker.py). Either way
it works in the artifact's partial directory, and a second try resumes there.
"""

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

from prefect.artifacts import create_markdown_artifact
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from llama2_core.errors import Llama2Error
from storage.artifacts import Artifact, Store
from storage.disk import require_free_space
from storage.tracking import Tracker
from tasks.energy import Counters, account
from tasks.interrupts import check, interruptible
from tasks.jobs import FORMAT_VERSIONS, TRAINED, Job
from tasks.mirror import mirror_of
from tasks.nodes import at_work_together
from tasks.process import Meter
from tasks.progress import progress, say, transient
from tasks.runtime import Execution, Runtime
from tasks.signs import last_lines, stopped, told
from tasks.stage_models import full_name, model_artifact
from tasks.stage_run import Curves, flat_numbers, record, start_run, tracker
from tasks.workers import DONE, LOG, Worker, at_work, get_ready

JOB, METRICS = "job.json", "metrics.jsonl"
SHORTEST_POLL, LONGEST_POLL, POLL_SHARE = 0.02, 0.25, 0.02
"""Seconds, and of what a stage has taken: the end of a short one is seen at once, a long one is hardly disturbed."""
LINES_BYTES = 1 << 16
"""With less, a worker's last lines may be lost."""

Work = Callable[[Path], dict[str, Any]]


class WorkerFailed(Llama2Error):
    """A worker ended without finishing its stage; the message holds its last lines."""


@dataclass(frozen=True)
class Done:
    """What a stage says when it has ended well."""

    summary: dict[str, Any]
    cpu_seconds: float
    peak_memory_bytes: int
    accelerators: int
    """That it ran on."""


def build(job: Job, runtime: Runtime, work: Work | None = None) -> str:
    """Return "kind/digest" of the job's artifact, found in the store or built now; parents may go by shorter names.

    Raises StoreBusy when another process is building it, CorruptArtifact when a parent's bytes are not what was
    committed, WorkerFailed when its worker dies, and what `work` raises.
    """
    check()
    store, mirror = Store(runtime.store_root), mirror_of(runtime, say)
    job = replace(job, parents={role: full_name(name, store) for role, name in job.parents.items()})
    artifact = store.find(job.kind, job.digest)
    reused = artifact is not None
    if artifact is None:
        say(f"[bold]{job.label}[/] [dim]{job.kind}/{job.digest[:12]}[/]")
        with store.building(job.kind, job.digest) as directory:
            artifact = store.find(job.kind, job.digest) or mirror.fetch(job.kind, job.digest, store)
            if artifact is None:
                with mirror.working(job.kind, job.digest, directory):
                    artifact = mirror.fetch(job.kind, job.digest, store) or _build(
                        job, runtime, store, directory, work
                    )
                    mirror.push(artifact)
    else:
        say(f"[dim]{job.label}: found {artifact.name}[/]")
        mirror.push(artifact)  # what could not be sent when it was made
    _publish(job, artifact, reused, runtime)
    return artifact.full_name


def find(name: str, runtime: Runtime) -> Artifact:
    """Return the artifact called "kind/digest", fetched when it is not here, or one here by a shorter name.

    Raises ArtifactNotFound.
    """
    store = Store(runtime.store_root)
    kind, _, digest = name.partition("/")
    return (
        store.find(kind, digest)
        or mirror_of(runtime, say).bring(kind, digest, store)
        or model_artifact(name, store)
    )


def _build(job: Job, runtime: Runtime, store: Store, directory: Path, work: Work | None) -> Artifact:
    require_free_space(runtime.home, runtime.least_free_bytes)
    for parent in job.parents.values():
        store.verify(find(parent, runtime))
    tracking = tracker(runtime)
    run_id = start_run(job, runtime, tracking)
    tracking.log_params(run_id, {**job.identity, "runtime": runtime.model_dump(mode="json")})
    started = time.monotonic()
    try:
        with Counters(job.processes) as counters:
            done = (
                _run_here(job, runtime, work, directory)
                if work
                else _run_worker(job, runtime, directory, tracking, run_id)
            )
        wall = time.monotonic() - started
        energy = account(counters.kwh, wall, done.cpu_seconds, done.accelerators, runtime)
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
            **energy.model_dump(),
        )
        record(artifact, job.label, tracking, run_id)
        say(f"  [green]done[/] in {wall:.1f} s  [dim]{artifact.name}[/]")
    except BaseException as error:
        tracking.give_up(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracking.finish(run_id)
    return artifact


def _run_here(job: Job, runtime: Runtime, work: Work, directory: Path) -> Done:
    if runtime.parent_run:  # a whole run's stages are followed by a worker's
        get_ready(runtime.processes, runtime.threads)
    meter = Meter()
    with transient(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as line:
        line.add_task(job.label, total=None)
        return Done(work(directory), meter.cpu_seconds(), meter.peak_memory_bytes(), accelerators=0)


def _run_worker(job: Job, runtime: Runtime, directory: Path, tracking: Tracker, run_id: str) -> Done:
    """Have the stage done by a worker, forwarding its curves."""
    parents = {
        role: os.path.relpath(find(name, runtime).path, directory) for role, name in job.parents.items()
    }
    settings = runtime.model_dump(mode="json", include=set(Execution.model_fields))
    order = {"kind": job.kind, "recipe": job.recipe.model_dump(mode="json"), "seed": job.seed}
    (directory / JOB).write_text(json.dumps({**order, "parents": parents, "settings": settings}))
    with interruptible():
        status = _watch(job, runtime, directory, tracking, run_id)
    if status != 0:
        raise WorkerFailed(_end(job.label, status, directory))
    done = Done(**json.loads((directory / DONE).read_text()))
    for name in (JOB, DONE):
        (directory / name).unlink()
    return done


def _watch(job: Job, runtime: Runtime, directory: Path, tracking: Tracker, run_id: str) -> int:
    """Follow the workers to their end, and return how that was; when we are to end, they save first."""
    curves, started = Curves(directory / METRICS, tracking, run_id), time.monotonic()
    try:
        with _workers(job, runtime, directory) as worker, progress(job.label, job.kind) as shown:
            while True:
                check()
                status = worker.status()
                if row := curves.follow(status):
                    shown.show(row)
                if status is not None:
                    break
                taken = time.monotonic() - started
                time.sleep(min(LONGEST_POLL, max(SHORTEST_POLL, POLL_SHARE * taken)))
            if status == 0:
                shown.finish()
    except KeyboardInterrupt:
        say(f"  [yellow]{job.label}: {stopped(directory) or 'ended; what it had finished is kept.'}[/]")
        raise
    return status


def _workers(job: Job, runtime: Runtime, directory: Path) -> AbstractContextManager[Worker]:
    if runtime.nodes > 1 and job.kind in TRAINED:
        return at_work_together(directory, job.processes, runtime, say)
    return at_work(directory, job.processes, runtime.threads)


def _end(label: str, status: int, directory: Path) -> str:
    """Return what is known of how a stage's workers ended: what they said of it first, then the end of their log."""
    if saved := stopped(directory):
        return f"{label} was told to end. {saved}"
    log = directory / LOG
    last = last_lines(log)
    known = filter(None, (_failure(label, status, last, directory), told(directory)))
    return "\n".join([*known, f"Last lines of {log}:", last])


def _failure(label: str, status: int, last: str, directory: Path) -> str:
    """Return what a worker died of, from its last lines, for which a full disk has no room."""
    full = disk_usage(directory).free < LINES_BYTES
    if full or "DiskFull" in last or os.strerror(errno.ENOSPC) in last:
        return f"{label} failed: the disk is full. Free some space and run again: finished work is kept."
    return f"{label} failed (exit status {status})."


def _publish(job: Job, artifact: Artifact, reused: bool, runtime: Runtime) -> None:
    """Leave a markdown artifact in Prefect, with the curve of what was trained now."""
    tracking = tracker(runtime)
    run_id = tracking.newest(artifact.digest)
    link = f"[its run in MLflow]({runtime.mlflow_address}{tracking.run_path(run_id)})\n\n" if run_id else ""
    manifest = artifact.manifest
    facts = flat_numbers(manifest.summary)
    rows = "\n".join(f"| {name} | {value:,.4g} |" for name, value in list(facts.items())[:60])
    origin = "found in the store" if reused else f"built in {manifest.wall_seconds} s"
    made_from = ", ".join(f"{role} `{name[:30]}`" for role, name in manifest.parents.items()) or "raw inputs"
    curve = _curve(job, artifact) if artifact.kind in TRAINED and not reused else ""
    create_markdown_artifact(
        key=artifact.kind,
        description=job.label,
        markdown=f"## {job.label}\n\n`{artifact.kind}/{artifact.digest}`, {origin}; from {made_from}.\n\n"
        f"{link}| fact | value |\n|---|---|\n{rows}\n{curve}",
    )


def _curve(job: Job, artifact: Artifact) -> str:
    """Return a stage's curve as an image in markdown, "" where it has none."""
    from tasks.curve_figures import as_url, draw, points_of  # noqa: PLC0415  (matplotlib takes a second)

    points = points_of(artifact)
    return f"\n![curve]({as_url(draw(artifact.kind, {job.label: points}))})\n" if points else ""
