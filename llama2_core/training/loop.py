"""The one training loop. Pretraining, SFT and reward modelling differ in objective and batches only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llama2_core.config import LoopConfig, OptimizerConfig
from llama2_core.training import distributed
from llama2_core.training.optim import learning_rate


@dataclass(frozen=True)
class Loss:
    """An objective on one micro-batch: sums, not means, so that any split of a batch gives one result."""

    total: Tensor
    """Loss summed over what is counted, with gradient."""
    count: int
    """How many positions (or pairs) were summed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further sums over the same count."""


@dataclass(frozen=True)
class Report:
    """What one update did; means over the whole batch of all ranks."""

    step: int
    """Updates done, this one included."""
    loss: float
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    count: int
    metrics: dict[str, float]


@dataclass
class TrainState:
    """All that training changes. Data order and learning rate are functions of the step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0


Objective = Callable[[nn.Module, Any], Loss]
Batches = Callable[[int], Sequence[Any]]
"""The micro-batches of a step on this rank."""


def train(state: TrainState, objective: Objective, batches: Batches, config: LoopConfig) -> Iterator[Report]:
    """Update the model until `config.steps`, yielding a Report a step. The caller logs, saves and stops."""
    state.model.train()
    while state.step < config.steps:
        yield optimizer_step(state, objective, batches(state.step), config.optimizer, config.steps)
    state.model.eval()


def optimizer_step(
    state: TrainState,
    objective: Objective,
    micro_batches: Sequence[Any],
    config: OptimizerConfig,
    steps: int,
) -> Report:
    """Accumulate the gradient of the summed loss, divide once by the global count, clip, update."""
    sums: dict[str, float] = {"loss": 0.0, "count": 0.0}
    for batch in micro_batches:
        loss = objective(state.model, batch)
        loss.total.backward()
        step_sums = {"loss": loss.total.item(), "count": loss.count, **loss.metrics}
        for name, value in step_sums.items():
            sums[name] = sums.get(name, 0.0) + value
    names = sorted(sums)
    totals = distributed.sum_across_ranks(torch.tensor([sums[name] for name in names], dtype=torch.float64))
    means = dict(zip(names, totals.tolist(), strict=True))
    count = means.pop("count")
    # FSDP averages gradients over ranks: undo that, and divide by what all ranks counted.
    scale_gradients(state.model, distributed.world_size() / count)
    norm = distributed.full(nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm))
    rate = learning_rate(state.step, steps, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return Report(
        step=state.step,
        loss=means.pop("loss") / count,
        learning_rate=rate,
        gradient_norm=norm.item(),
        count=int(count),
        metrics={name: value / count for name, value in means.items()},
    )


def scale_gradients(model: nn.Module, factor: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
