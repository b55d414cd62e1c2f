"""How a worker drives the training loop: arrange, resume, log, validate, save, guard."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama2_core.config import LoopConfig
from llama2_core.data.sampler import rank_share
from llama2_core.errors import CheckpointError, ConfigError, DataError
from llama2_core.footprint import Network
from llama2_core.lora import LoRALinear
from llama2_core.model import ScalarModel
from llama2_core.planning import training_flops
from llama2_core.training import distributed, parallel, snapshots
from llama2_core.training.guards import (
    ROLLBACKS,
    LossGuard,
    Stopped,
    TrainingDiverged,
    Watchdog,
    noticing_sigterm,
)
from llama2_core.training.loop import Objective, Report, TrainState, mean_losses, moved, train
from llama2_core.training.optim import adamw
from llama2_core.training.snapshots import Snapshots
from llama2_core.training.telemetry import Speedometer
from storage.disk import atomic_write
from storage.metrics import MetricLog
from tasks.signs import beat
from tasks.stage import Fill, Stage

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
"""Relative difference of the first loss after a resume: on other processes sums are rounded in another order."""
HEARTBEAT_SECONDS = 5.0
LEFT_OUT = "left_out.json"
"""Batches that broke the run, by the step that would have learned from them: the numbers of their rows."""


@dataclass(frozen=True)
class Examples:
    """Rows, and how some of them become a micro-batch."""

    total: int
    collate: Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Training:
    """What a stage has its model learn."""

    objective: Objective
    examples: Examples
    order: Callable[[int], np.ndarray]
    """Rows of a step's batch, over all processes: a pure function of the step."""
    loop: LoopConfig
    row_tokens: int
    """Tokens of a row, at most."""
    held_out: Examples | None = None
    learned_from: dict[str, str] = field(default_factory=dict)
    """Fingerprints of what, exchanged under a resumed run, would change it."""
    begin: Callable[[Any], None] | None = None
    """Looks at the model as it was filled, before any update and before a checkpoint is loaded."""


def fit(stage: Stage, model: Any, fill: Fill, training: Training) -> TrainState:
    """Train a model to the end of its loop, from the newest checkpoint when there is one.

    Raises ConfigError before anything runs for what cannot, TrainingDiverged, and Stopped after SIGTERM.
    """
    run = stage.execution
    adapted = any(isinstance(module, LoRALinear) for module in model.modules())
    parallel.refuse_mesh(run.mesh, distributed.world_size(), model.config, adapted)
    rank, ranks = parallel.data_share(run.mesh)
    if training.loop.rows % ranks:
        raise ConfigError(
            f"{training.loop.rows} rows an update cannot be shared out evenly among {ranks} processes: "
            "change runtime.processes, or rows"
        )
    parallel.arrange(model, run.mesh, training.loop.precision, run.activation_checkpointing, run.compile)
    device = torch.device("cpu") if run.mesh.cpu_offload else distributed.device()
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device=device)
        fill(model)
    else:
        model.to(device)
    if training.begin:
        training.begin(model)
    state = TrainState(model, adamw(model, training.loop.optimizer))
    with noticing_sigterm() as stopping:
        driver = Driver(stage, state, training, rank, ranks)
        driver.resume()
        driver.drive(stopping)
    return state


class Driver:
    """Consumes the loop's reports; all that it keeps is in a checkpoint or on disk."""

    def __init__(self, stage: Stage, state: TrainState, training: Training, rank: int, ranks: int) -> None:
        self._stage, self._state, self._training = stage, state, training
        self._rank, self._ranks = rank, ranks
        self._objective = parallel.autocasting(training.objective, training.loop.precision)
        self._snapshots = Snapshots(stage.checkpoints, stage.execution.kept_checkpoints)
        self._guard = LossGuard()
        self._left_out: dict[int, list[int]] = read_left_out(stage.checkpoints)
        state.left_out |= self._left_out.keys()
        self._tokens = 0
        self._log: MetricLog | None = None
        self._beat = -math.inf

    def batches(self, step: int) -> list[Any]:
        """Return this rank's micro-batches of a step."""
        share = rank_share(self._training.order(step), self._rank, self._ranks)
        device = distributed.device()
        parts = split(share, self._stage.execution.micro_rows)
        made = [moved(self._training.examples.collate(part), device) for part in parts]
        self._tokens = sum(batch.tokens.numel() for batch in made) * self._ranks
        return made

    def resume(self) -> bool:
        """Go back to the newest checkpoint; say where that is, and see that the next loss is the one stored there."""
        path = self._snapshots.newest()
        if path is None:
            return False
        facts = snapshots.facts_of(path)
        refuse_exchanged(path, facts["learned_from"], self._training.learned_from)
        snapshots.load(path, self._state)
        self._guard = LossGuard(**facts["guard"])
        stored, found = facts["next_loss"], self._next_loss()
        if distributed.rank() == 0:
            print(
                f"resumed at step {self._state.step} of {self._training.loop.steps}, {self._position()}, from "
                f"{path.name} {snapshots.sha256(path / snapshots.MARKER)[:12]}; next loss {found:.7g}, "
                f"stored {stored:.7g}",
                flush=True,
            )
        tolerance = TOLERANCE[self._training.loop.precision]
        if not math.isclose(found, stored, rel_tol=tolerance) and math.isfinite(stored):
            raise CheckpointError(
                f"{path}: the next batch's loss is {found:.7g}, when the checkpoint was written it was {stored:.7g}: "
                "data, code or machine compute something else now. Undo that, or delete the folder to begin anew."
            )
        return True

    def drive(self, stopping: Callable[[], bool]) -> None:
        """Train to the end: a metric row every `log_every` steps, a checkpoint every `checkpoint_every`."""
        stage, state, run, loop = self._stage, self._state, self._stage.execution, self._training.loop
        self._open_log()
        self._watchdog = Watchdog(stage.directory, distributed.rank(), run.silence_seconds)
        speed = Speedometer(training_flops(self._network(), self._training.row_tokens), loop.precision)
        for report in train(state, self._objective, self.batches, loop):
            self._watchdog.alive()
            speed.add(self._tokens, report.data_seconds)
            last = report.step == loop.steps
            self._heed(report)
            if self._guard.broken:
                self._roll_back()
                continue
            row: dict[str, float] = {}
            if report.step % run.log_every == 0 or last:
                row |= self._facts(report) | speed.row()
            if self._training.held_out and (report.step % run.validate_every == 0 or last):
                row |= self._validate(self._training.held_out)
            if row and self._log:
                self._log.append({"step": report.step, "of": loop.steps, **row})
            self._heartbeat(report)
            stopped = not last and distributed.any_rank(stopping())
            due = stopped or report.step % run.checkpoint_every == 0
            if due and not last and not self._guard.in_a_row:  # else the weights are suspected already
                self._save()
            if stopped:
                self._snapshots.wait()
                raise Stopped(
                    f"SIGTERM at step {report.step} of {loop.steps}: saved. Run again to go on from there."
                )
        self._snapshots.wait()
        self._watchdog.close()

    def _facts(self, report: Report) -> dict[str, float]:
        return {
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            **report.metrics,
            **self._guard.counts(),
        }

    def _heed(self, report: Report) -> None:
        """Let the guard see an update, and say what it finds wrong with it."""
        wrong = self._guard.observe(report)
        if wrong and distributed.rank() == 0:
            print(wrong, flush=True)

    def _roll_back(self) -> None:
        """Return to the last checkpoint, and leave out the batches that broke the run since.

        Raises TrainingDiverged, naming their rows, where that does not help or there is no checkpoint yet.
        """
        last = self._state.step
        broken = {
            step: self._training.order(step).tolist() for step in range(last - self._guard.in_a_row, last)
        }
        told = "; ".join(f"step {step + 1}: rows {shortened(rows)}" for step, rows in broken.items())
        path = self._snapshots.newest()
        if path is None or self._guard.rollbacks == ROLLBACKS:
            raise TrainingDiverged(
                f"loss or gradient is not finite in {len(broken)} updates in a row, after {self._guard.rollbacks} "
                f"returns to a checkpoint ({told}). Lower the peak learning rate or look at those rows."
            )
        self._left_out |= broken
        self._state.left_out |= broken.keys()
        counts = self._guard.counts()
        facts = snapshots.load(path, self._state)
        if distributed.rank() == 0:
            atomic_write(self._stage.checkpoints / LEFT_OUT, json.dumps(self._left_out).encode())
            print(f"back to step {self._state.step}; left out from now on: {told}", flush=True)
        earlier = LossGuard(**facts["guard"])
        not_applied, rollbacks = counts["updates_not_applied"], counts["rollbacks"] + 1
        self._guard = replace(earlier, not_applied=not_applied, rollbacks=rollbacks)
        self._open_log()

    def _save(self) -> None:
        facts = {
            "next_loss": self._next_loss(),
            "guard": self._guard.facts(),
            "learned_from": self._training.learned_from,
            "position": self._position(),
        }
        self._snapshots.save(self._state, facts)

    def _next_loss(self) -> float:
        """Return the loss of the next batch as the model is now."""
        batches = self.batches(self._state.step)
        return mean_losses(self._state.model, self._objective, ((batch, 1.0) for batch in batches))[0]

    def _validate(self, held_out: Examples) -> dict[str, float]:
        """Return the loss on held-out rows, each once; ranks that have one fewer see their first again, uncounted."""
        rows, micro_rows = np.arange(held_out.total), self._stage.execution.micro_rows
        parts = split(rank_share(rows, self._rank, self._ranks), micro_rows)
        most = len(split(rank_share(rows, 0, self._ranks), micro_rows))

        def micro_batches() -> Iterable[tuple[Any, float]]:
            for part in parts:
                self._watchdog.alive()
                yield moved(held_out.collate(part), distributed.device()), 1.0
            for _ in range(most - len(parts)):
                yield moved(held_out.collate(rows[:1]), distributed.device()), 0.0

        loss, metrics = mean_losses(self._state.model, self._objective, micro_batches())
        return {"validation_loss": loss, **{f"validation_{name}": value for name, value in metrics.items()}}

    def _position(self) -> str:
        """Return where in the data the next batch begins."""
        row = self._state.step * self._training.loop.rows
        epoch, place = divmod(row, self._training.examples.total)
        return f"row {row} (epoch {epoch + 1}, place {place} of {self._training.examples.total})"

    def _network(self) -> Network:
        model = self._state.model
        return Network(config=model.config, scalar=isinstance(model, ScalarModel))  # type: ignore

    def _open_log(self) -> None:
        if distributed.rank() == 0:
            self._log = MetricLog(self._stage.metrics, self._state.step)

    def _heartbeat(self, report: Report) -> None:
        if distributed.rank() == 0 and time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            told = {"step": report.step, "of": self._training.loop.steps, "loss": report.loss}
            beat(self._stage.directory, **told)
            self._beat = time.monotonic()


def split(rows: np.ndarray, micro_rows: int) -> list[np.ndarray]:
    """Cut a batch into micro-batches of at most `micro_rows`, as even as can be."""
    return np.array_split(rows, math.ceil(len(rows) / micro_rows)) if len(rows) else []


def shortened(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:16])) + (f" and {len(rows) - 16} more" if len(rows) > 16 else "")


def read_left_out(checkpoints: Path) -> dict[int, list[int]]:
    path = checkpoints / LEFT_OUT
    return {int(step): rows for step, rows in json.loads(path.read_text()).items()} if path.exists() else {}


def refuse_exchanged(path: Path, stored: dict[str, str], now: dict[str, str]) -> None:
    """Raise DataError naming what a run learned from that is another now."""
    for name in sorted(stored.keys() | now.keys()):
        if stored.get(name) != now.get(name):
            was, found = (str(value)[:12] for value in (stored.get(name), now.get(name)))
            raise DataError(
                f"{path} was learned from {name} {was}, here is {found}. Bring that back, or delete the folder to "
                "begin anew."
            )
