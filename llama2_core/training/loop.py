"""The one training loop. Pretraining, SFT and reward modelling differ in objective and batches only."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
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
    metrics: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)
    """Further sums, each with the count that it is a mean over; every micro-batch has the same names."""


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
    """What the loss is a mean over."""
    applied: bool
    """Whether weights changed: they do not when loss or gradient is not finite."""
    metrics: dict[str, float]
    data_seconds: float
    """Waiting for the batch, on this rank."""


@dataclass
class TrainState:
    """All that training changes. Data order and learning rate are functions of the step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    left_out: set[int] = field(default_factory=set)
    """Steps whose batches are not learned from, because they broke the run once."""


Objective = Callable[[nn.Module, Any], Loss]
Batches = Callable[[int], Sequence[Any]]
"""The micro-batches of a step on this rank."""


def train(state: TrainState, objective: Objective, batches: Batches, config: LoopConfig) -> Iterator[Report]:
    """Update the model until `config.steps`, yielding a Report a step. The caller logs, saves and stops."""
    while state.step < config.steps:
        if state.step in state.left_out:
            state.step += 1
            continue
        if not state.model.training:  # to tell every module takes time
            state.model.train()
        started = time.perf_counter()
        micro_batches = batches(state.step)
        waited = time.perf_counter() - started
        report = optimizer_step(state, objective, micro_batches, config.optimizer, config.steps)
        yield replace(report, data_seconds=waited)
    state.model.eval()


def optimizer_step(
    state: TrainState,
    objective: Objective,
    micro_batches: Sequence[Any],
    config: OptimizerConfig,
    steps: int,
) -> Report:
    """Accumulate the gradient of the summed loss, divide once by the global count, clip, update."""
    sums = Sums()
    for batch in micro_batches:
        loss = objective(state.model, batch)
        loss.total.backward()
        sums.add(loss)
    loss, count, metrics = sums.means()
    # FSDP averages gradients over ranks: undo that, and divide by what all ranks counted.
    factor = distributed.world_size() / count
    parameters = list(state.model.parameters())
    norm = gradient_norm(parameters) * factor
    rate = learning_rate(state.step, steps, config)
    applied = math.isfinite(loss) and math.isfinite(norm)
    if applied:
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        shrunk = factor * min(1.0, config.clip_norm / (norm + 1e-6))
        apply_scaled(state.optimizer, 1 / shrunk)
    for parameter in parameters:  # the optimizer's own way to say this takes twice as long
        parameter.grad = None
    state.step += 1
    return Report(state.step, loss, rate, norm, int(count), applied, metrics, data_seconds=0.0)


class Sums:
    """Adds up micro-batches, then ranks; one transfer from the GPU and one collective a step."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, loss: Loss, weight: float = 1.0) -> None:
        """Count a micro-batch, or with weight 0 none of it, where this rank has one fewer than others."""
        device = loss.total.device
        for name, pair in {"": (loss.total.detach(), loss.count), **loss.metrics}.items():
            values = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in pair]
            self._sums.setdefault(name, []).append(torch.stack(values) * weight)

    def means(self) -> tuple[float, float, dict[str, float]]:
        """Return the mean loss over all ranks, its count, and the means of all metrics that counted anything."""
        names = sorted(self._sums)
        totals = torch.stack([torch.stack(self._sums[name]).sum(0) for name in names])
        values = dict(zip(names, distributed.sum_across_ranks(totals).tolist(), strict=True))
        total, count = values.pop("")
        return total / count, count, {name: a / n for name, (a, n) in values.items() if n}


@torch.no_grad()
def mean_losses(
    model: nn.Module, objective: Objective, micro_batches: Iterable[tuple[Any, float]]
) -> tuple[float, dict[str, float]]:
    """Return the mean loss and metrics over all ranks of batches, each with its weight 1 or 0, without learning.

    Under sharding every rank must bring as many.
    """
    model.eval()
    sums = Sums()
    for batch, weight in micro_batches:
        sums.add(objective(model, batch), weight)
    distributed.reshard(model)
    loss, _, metrics = sums.means()
    return loss, metrics


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the global norm of the gradients, the same on all ranks.

    Tensor parallelism leaves some parameters whole, on a mesh of their own: a norm for each mesh.
    """
    by_mesh: dict[Any, list[Tensor]] = {}
    for gradient in [parameter.grad for parameter in parameters if parameter.grad is not None]:
        by_mesh.setdefault(getattr(gradient, "device_mesh", None), []).append(gradient)
    norms = [distributed.full(nn.utils.get_total_norm(group)) for group in by_mesh.values()]
    return torch.stack(norms).norm().item()


def apply_scaled(optimizer: torch.optim.Optimizer, divisor: float) -> None:
    """Step with gradients divided by a number, as they are read: a pass over them less."""
    optimizer.grad_scale = torch.tensor(divisor)  # type: ignore  (what the fused AdamW of a gradient scaler reads)
    optimizer.step()


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch, a dataclass of tensors, on the device."""
    if device.type == "cpu":
        return batch
    there = {f.name: getattr(batch, f.name) for f in fields(batch)}
    there = {name: value.to(device, non_blocking=True) for name, value in there.items() if value is not None}
    return replace(batch, **there)
