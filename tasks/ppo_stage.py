"""What the worker does in PPO. Llama 2 section 3.2.3.

Killed in the middle of an iteration, a stage does that iteration again: samples are a function of the policy and the
iteration, so the weights at the end are those of a run that nobody stopped, bit for bit. Several processes share out
the sampling, gather what was said, and learn each from its part of a mini-batch; what is decided, rank 0 decides.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llama2_core.data.sampler import step_indices
from llama2_core.errors import ConfigError
from llama2_core.model import Transformer
from llama2_core.rlhf.diagnosis import Finding, diagnose, summarise
from llama2_core.rlhf.experience import judge
from llama2_core.rlhf.ppo import PPOReport, ppo
from llama2_core.rlhf.rollout import Rollout, roll_out
from llama2_core.seeding import derive_seed
from llama2_core.training import distributed, parallel, snapshots
from llama2_core.training.guards import Stopped, noticing_sigterm
from llama2_core.training.loop import TrainState, moved
from llama2_core.training.optim import adamw
from llama2_core.training.snapshots import Snapshots
from storage.metrics import MetricLog, read_metrics
from tasks.ppo_models import load_models
from tasks.recipes import PPORecipe
from tasks.signs import beat
from tasks.stage import Stage
from tasks.tables import Prompt, read_prompts


def proximal(stage: Stage) -> dict:
    """Improve the chat model by PPO; keep the policy with the best objective on prompts set aside."""
    run = Run(stage)
    with noticing_sigterm() as stopping:
        for report in run.reports() if run.goes_on() else ():
            last = run.note(report)
            if not last and distributed.any_rank(stopping()):
                run.save(report)
                run.kept.wait()
                raise Stopped(
                    f"SIGTERM at iteration {report.iteration}: saved. Run again to go on from there."
                )
            if last:
                break
    run.kept.wait()
    return run.summary()


SAVE_SECONDS = 60.0
"""A kill costs at most so much and the iteration that it falls in; looks are saved whenever they are."""


class Run:
    """A PPO run: its models, what it has seen so far, and where it saves."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.recipe = stage, PPORecipe.model_validate(stage.recipe)
        self.share = parallel.data_share(stage.execution.mesh)
        if self.recipe.ppo.mini_batch_rows % self.share[1]:
            raise ConfigError(
                f"ppo.mini_batch_rows {self.recipe.ppo.mini_batch_rows} cannot be shared out evenly among "
                f"{self.share[1]} processes: change it, or runtime.processes"
            )
        self.models = load_models(stage, self.recipe)
        self.learner, self.judges = self.models.learner, self.models.judges
        prompts = read_prompts(stage.parents["dialogs"], "train", self.models.tokenizer)
        held_out = self.recipe.held_out_prompts
        if len(prompts) <= held_out:
            raise ConfigError(
                f"ppo.held_out_prompts sets {held_out} prompts aside, and there are {len(prompts)}: lower it, or make "
                "more dialogs.train_prompts"
            )
        self.watched, self.trained = prompts[:held_out], prompts[held_out:]
        self.state = TrainState(self.learner, adamw(self.learner, self.recipe.optimizer))
        self.kl_coef = self.recipe.ppo.kl_coef
        self.kept = Snapshots(stage.checkpoints, stage.execution.kept_checkpoints)
        if newest := self.kept.newest():
            self.kl_coef = snapshots.load(newest, self.state)["kl_coef"]
        done = self.state.step // (self.recipe.ppo.batch_rows // self.recipe.ppo.mini_batch_rows)
        self.log, self.history = opened(stage.metrics, done)
        self.looks = Looks(stage.directory, done if self.history else -1)
        self.saved = time.monotonic()
        if not self.history:
            self.record({"step": 0, **self.look(0)})

    def reports(self) -> Any:
        recipe = self.recipe
        beta = self.kl_coef
        return ppo(self.state, self.judges, self.sample, recipe.ppo, recipe.optimizer, beta, self.share)

    def goes_on(self) -> bool:
        """Whether neither patience nor a bound has ended the run before it was resumed."""
        return self.looks.since_best() < self.recipe.ppo.patience and not self.alarmed(self.history)

    def note(self, report: PPOReport) -> bool:
        """Look at held-out prompts when it is time, record the iteration, save; return whether it was the last."""
        row = {"step": report.iteration, **report.metrics}
        last = report.iteration == self.recipe.ppo.iterations
        alarmed = self.alarmed([*self.history, row])  # then the policy is not worth a look
        if not alarmed and (last or report.iteration % self.recipe.ppo.evaluate_every == 0):
            row |= self.look(report.iteration)
            alarmed = self.alarmed([*self.history, row])
        self.record(row)
        last |= alarmed or self.looks.since_best() >= self.recipe.ppo.patience
        due = distributed.from_rank_zero(time.monotonic() - self.saved > SAVE_SECONDS)
        if last or "held_out_reward" in row or due:
            self.save(report)
        return last

    def alarmed(self, history: Sequence[dict[str, Any]]) -> bool:
        return bool(history) and any(f.stops for f in diagnose(history, self.recipe.bounds))

    def look(self, iteration: int) -> dict[str, float]:
        """Return the metrics of prompts set aside, and keep the policy if it is the best so far there."""
        rollout, is_safety = self.sampled(self.watched, -1)
        beta = self.recipe.ppo.kl_coef
        _, metrics = judge(self.learner, self.judges, rollout, is_safety, self.recipe.ppo, beta, self.share)
        seen = {f"held_out_{name}": metrics[name] for name in LOOKED_AT if name in metrics}
        trusted = not self.alarmed([*self.history, {"step": iteration, **seen}])
        if trusted and self.looks.would_be_best(metrics):
            # before it is on record: a kill in between repeats the look
            self.models.save(self.stage.directory)
        self.looks.record(iteration, metrics, trusted)
        return seen

    def record(self, row: dict[str, Any]) -> None:
        """Put an iteration's metrics on record, and say what is wrong with it."""
        findings = diagnose([*self.history, row], self.recipe.bounds)
        row |= {"of": self.recipe.ppo.iterations, "findings": len(findings)}
        if self.log:
            for finding in findings:
                print(f"iteration {finding.iteration}: {finding.says}", flush=True)
            self.log.append(row)
            beat(self.stage.directory, step=row["step"], of=row["of"])
        self.history.append(row)

    def save(self, report: PPOReport) -> None:
        """Save the state after what is on record: a resumed run drops records behind it."""
        self.kept.save(self.state, {"kl_coef": report.kl_coef})
        self.saved = time.monotonic()

    def sample(self, policy: Transformer, iteration: int) -> tuple[Rollout, torch.Tensor]:
        rows = step_indices(len(self.trained), self.recipe.ppo.batch_rows, self.stage.seed, iteration)
        return self.sampled([self.trained[row] for row in rows], iteration)

    def sampled(self, prompts: list[Prompt], iteration: int) -> tuple[Rollout, torch.Tensor]:
        """Sample a response a prompt, a part on each process; the whole rollout is on all."""
        seeds = [derive_seed(self.stage.seed, "rollout", iteration, index) for index in range(len(prompts))]
        config = self.recipe.sampling.at(self.recipe.ppo.temperature)
        rows, slots = [prompt.tokens for prompt in prompts], self.stage.execution.slots
        with self.models.sampler() as policy:
            rollout = roll_out(policy, rows, seeds, config, self.models.tokenizer.eos_id, slots)
        device = distributed.device()
        is_safety = torch.tensor([prompt.safety for prompt in prompts], device=device)
        return moved(rollout, device), is_safety

    def summary(self) -> dict[str, Any]:
        findings: list[Finding] = summarise(self.history, self.recipe.bounds)
        return {
            "iterations": self.history[-1]["step"],
            "first": self.looks.rows[0],
            "best": self.looks.best(),
            "findings": [finding.as_dict() for finding in findings],
        }


def opened(path: Path, resumed_step: int) -> tuple[MetricLog | None, list[dict[str, Any]]]:
    """Return a log, which rank 0 alone writes, and on all ranks what is in it up to the step resumed from."""
    log = MetricLog(path, resumed_step) if distributed.rank() == 0 else None
    return log, distributed.from_rank_zero(read_metrics(path) if log else [])


LOOKED_AT = ("objective", "reward", "kl", "helpfulness", "safety", "independent", "response_tokens")


class Looks:
    """The held-out objective through PPO, on disk, so that a resumed run stops where an unbroken one would."""

    def __init__(self, directory: Path, resumed_iteration: int) -> None:
        self._log, rows = opened(directory / "looks.jsonl", resumed_iteration)
        self.rows: list[dict[str, Any]] = [{"iteration": row.pop("step"), **row} for row in rows]

    def would_be_best(self, metrics: dict[str, float]) -> bool:
        return not self.rows or metrics["objective"] > self.best()["objective"]

    def record(self, iteration: int, metrics: dict[str, float], trusted: bool = True) -> None:
        """`trusted` is whether no bound was broken: else the look is never the best."""
        seen = {name: metrics[name] for name in LOOKED_AT if name in metrics}
        if self._log:
            self._log.append({"step": iteration, **seen, "trusted": trusted})
        self.rows.append({"iteration": iteration, **seen, "trusted": trusted})

    def best(self) -> dict[str, Any]:
        return max(self.rows, key=lambda row: (row["trusted"], row["objective"]))

    def since_best(self) -> int:
        """Return how many looks have passed since the best."""
        return len(self.rows) - 1 - self.rows.index(self.best()) if self.rows else 0
