"""What a worker is told, and how it drives a training loop: log, save, resume."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama2_core.config import LoopConfig
from llama2_core.model import ScalarModel, Transformer, initialise
from llama2_core.seeding import generator
from llama2_core.training import checkpoint, distributed
from llama2_core.training.loop import Objective, Report, TrainState, train
from llama2_core.training.optim import adamw
from storage.metrics import MetricLog, read_metrics


@dataclass(frozen=True)
class Stage:
    """One job, as the worker sees it."""

    directory: Path
    recipe: dict[str, Any]
    seed: int
    parents: dict[str, Path]
    threads: int
    slots: int
    log_every: int
    checkpoint_every: int

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.jsonl"


def fit(
    stage: Stage, model: torch.nn.Module, objective: Objective, batches: Any, loop: LoopConfig
) -> TrainState:
    """Train a model to the end of its loop, from the newest checkpoint when there is one."""
    distributed.shard(model)
    state = TrainState(model, adamw(model, loop.optimizer))
    if checkpoint.resume(stage.checkpoints, state):
        print(f"resumed at step {state.step} of {loop.steps}", flush=True)
    drive(stage, state, train(state, objective, batches, loop), loop.steps)
    return state


def drive(stage: Stage, state: TrainState, reports: Iterable[Report], steps: int) -> None:
    """Consume reports: a metric row every `log_every` steps, a checkpoint every `checkpoint_every`."""
    log = MetricLog(stage.metrics, state.step) if distributed.rank() == 0 else None
    for report in reports:
        if log and (report.step % stage.log_every == 0 or report.step == steps):
            log.append(
                {
                    "step": report.step,
                    "of": steps,
                    "loss": report.loss,
                    "learning_rate": report.learning_rate,
                    "gradient_norm": report.gradient_norm,
                    **report.metrics,
                }
            )
        if report.step % stage.checkpoint_every == 0 and report.step < steps:
            checkpoint.save_checkpoint(stage.checkpoints, state)


def loss_summary(stage: Stage) -> dict[str, float]:
    """Return the first and the mean of the last tenth of the logged losses."""
    losses = [row["loss"] for row in read_metrics(stage.metrics)]
    last = losses[-max(1, len(losses) // 10) :]
    return {"first_loss": losses[0], "final_loss": sum(last) / len(last)}


def new_model(config: Any, seed: int) -> Transformer:
    model = Transformer(config)
    initialise(model, config, generator(seed, "initialise"))
    return model


def new_reward_model(directory: Path, seed: int) -> tuple[ScalarModel, Any]:
    """Load a language model as a reward model, its score head drawn from N(0, 1 / sqrt(dim))."""
    model, tokenizer = checkpoint.load_reward_model(directory)
    with torch.no_grad():
        model.score.weight.normal_(0.0, model.config.dim**-0.5, generator=generator(seed, "score head"))
    return model, tokenizer
