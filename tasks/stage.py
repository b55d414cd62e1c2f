"""What a worker is told of its stage, and the models that it starts from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llama2_core.config import ModelConfig
from llama2_core.errors import ConfigError
from llama2_core.model import ScalarModel, Transformer, initial_weights
from llama2_core.seeding import generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, distributed
from storage.metrics import read_metrics
from tasks.runtime import Execution

LAST = ("validation_", "updates_not_applied", "loss_spikes", "rollbacks")
"""Beginnings of the metrics whose last value is part of a stage's summary."""
Fill = Callable[[Any], None]
"""Gives a model, whole or sharded, its weights."""


@dataclass(frozen=True)
class Stage:
    """One job, as the worker sees it."""

    directory: Path
    recipe: dict[str, Any]
    seed: int
    parents: dict[str, Path]
    execution: Execution

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.jsonl"


def training_summary(stage: Stage) -> dict[str, float]:
    """Return the first and the mean of the last tenth of the logged losses, and the last of what else is told."""
    rows = read_metrics(stage.metrics)
    losses = [row["loss"] for row in rows if "loss" in row]
    last = losses[-max(1, len(losses) // 10) :]
    told = {name: value for name, value in rows[-1].items() if name.startswith(LAST)}
    return {"first_loss": losses[0], "final_loss": sum(last) / len(last), **told}


def empty(kind: type[Transformer] | type[ScalarModel], config: ModelConfig) -> Any:
    """Return a model without memory, to be sharded first and filled then."""
    with torch.device("meta"):
        return kind(config)


def newly_initialised(seed: int) -> Fill:
    """Return what draws a language model's first weights."""

    def fill(model: Transformer) -> None:
        assign(model, initial_weights(model, model.config, generator(seed, "initialise")))

    return fill


def as_reward_model(directory: Path, seed: int) -> Fill:
    """Return what makes a reward model of a language model, its score head drawn from N(0, 1 / sqrt(dim))."""

    def fill(model: ScalarModel) -> None:
        checkpoint.fill_reward_model(model, directory)
        head = torch.empty(1, model.config.dim)
        head.normal_(0.0, model.config.dim**-0.5, generator=generator(seed, "score head"))
        assign(model, [("score.weight", head)])

    return fill


@torch.no_grad()
def assign(model: nn.Module, weights: Any) -> None:
    """Copy named tensors, whole on every rank, into a model that may be sharded."""
    parameters = dict(model.named_parameters())
    for name, value in weights:
        parameters[name].copy_(distributed.like(value, parameters[name]))


def reward_model(stage: Stage, role: str, tokenizer: Tokenizer) -> ScalarModel:
    """Load the parent that scores what a policy says. Raises ConfigError when it cannot read the policy's tokens."""
    refuse_other_tokenizer(stage, role, tokenizer)
    return checkpoint.load_reward_model(stage.parents[role])[0]


def refuse_other_tokenizer(stage: Stage, role: str, tokenizer: Tokenizer) -> None:
    """Raise ConfigError for a parent that cannot read a policy's tokens."""
    if Tokenizer.load(stage.parents[role] / "tokenizer.model").digest != tokenizer.digest:
        raise ConfigError(
            f"the {role} reward model {stage.parents[role].name[:12]} has another tokenizer than the chat model, so it "
            "cannot read its tokens: train it from a model of this run"
        )
