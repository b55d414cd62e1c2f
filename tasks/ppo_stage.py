"""What the worker does in PPO. Llama 2 section 3.2.3."""

from pathlib import Path

import torch

from llama2_core.data.sampler import step_indices
from llama2_core.model import Transformer
from llama2_core.rlhf.ppo import ActorCritic, Judges, judge, ppo
from llama2_core.rlhf.rollout import Rollout, roll_out
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, snapshots
from llama2_core.training.guards import Stopped, noticing_sigterm
from llama2_core.training.loop import TrainState
from llama2_core.training.optim import adamw
from llama2_core.training.snapshots import Snapshots
from storage.metrics import MetricLog, read_metrics
from tasks.recipes import PPORecipe
from tasks.stage import Stage
from tasks.tables import Prompt, read_prompts


def proximal(stage: Stage) -> dict:
    """Improve the chat model by PPO; keep the policy with the best objective on prompts set aside."""
    recipe = PPORecipe.model_validate(stage.recipe)
    policy, tokenizer = checkpoint.load_policy(stage.parents["chat"])
    reference, _ = checkpoint.load_policy(stage.parents["chat"])
    helpfulness, _ = checkpoint.load_reward_model(stage.parents["helpfulness"])
    safety, _ = checkpoint.load_reward_model(stage.parents["safety"])
    value_model, _ = checkpoint.load_reward_model(stage.parents["helpfulness"])
    torch.nn.init.zeros_(value_model.score.weight)  # rewards are whitened: their mean is the first guess
    for model in (reference, helpfulness, safety):
        model.requires_grad_(False)
    prompts = read_prompts(stage.parents["dialogs"], "train", tokenizer)
    watched, trained = prompts[: recipe.held_out_prompts], prompts[recipe.held_out_prompts :]
    judges = Judges(reference, helpfulness, safety)
    model = ActorCritic(policy, value_model)
    state = TrainState(model, adamw(model, recipe.optimizer))
    kept = Snapshots(stage.checkpoints, stage.execution.kept_checkpoints)
    if newest := kept.newest():
        snapshots.load(newest, state)
    updates = recipe.ppo.batch_rows // recipe.ppo.mini_batch_rows
    looks = Looks(stage.directory, state.step // updates)

    def sample(policy: Transformer, iteration: int) -> tuple[Rollout, torch.Tensor]:
        rows = step_indices(len(trained), recipe.ppo.batch_rows, stage.seed, iteration)
        return _sample(stage, recipe, policy, [trained[row] for row in rows], tokenizer, iteration)

    def look(iteration: int) -> bool:
        rollout, is_safety = _sample(stage, recipe, policy, watched, tokenizer, -1)
        _, metrics = judge(model, judges, rollout, is_safety, recipe.ppo)
        if looks.would_be_best(metrics):  # saved before it is on record: a kill in between repeats the look
            checkpoint.save_model(stage.directory, policy, tokenizer)
        looks.record(iteration, metrics)
        return looks.since_best() < recipe.ppo.patience

    if not looks.rows:
        look(0)
    log = MetricLog(stage.metrics, state.step // updates)
    iterations = ppo(state, judges, sample, recipe.ppo, recipe.optimizer)
    with noticing_sigterm() as stopping:
        for report in iterations if looks.since_best() < recipe.ppo.patience else ():
            row = {"step": report.iteration, "of": recipe.ppo.iterations, **report.metrics}
            last = report.iteration == recipe.ppo.iterations
            looking = last or report.iteration % recipe.ppo.evaluate_every == 0
            if looking:
                last |= not look(report.iteration)
                seen = {f"held_out_{name}": value for name, value in looks.rows[-1].items()}
                row |= {name: value for name, value in seen.items() if name != "held_out_iteration"}
            stopped = stopping() and not last
            if looking or stopped:
                kept.save(state, {})
            log.append(row)
            if stopped:
                kept.wait()
                raise Stopped(
                    f"SIGTERM at iteration {report.iteration}: saved. Run again to go on from there."
                )
            if last:
                break
    kept.wait()
    return {"iterations": state.step // updates, "first": looks.rows[0], "best": looks.best()}


def _sample(
    stage: Stage,
    recipe: PPORecipe,
    policy: Transformer,
    prompts: list[Prompt],
    tokenizer: Tokenizer,
    iteration: int,
) -> tuple[Rollout, torch.Tensor]:
    seeds = [derive_seed(stage.seed, "rollout", iteration, index) for index in range(len(prompts))]
    config = recipe.sampling.at(recipe.ppo.temperature)
    rows = [prompt.tokens for prompt in prompts]
    rollout = roll_out(policy, rows, seeds, config, tokenizer.eos_id, stage.execution.slots)
    return rollout, torch.tensor([prompt.safety for prompt in prompts])


class Looks:
    """The held-out objective through PPO, on disk, so that a resumed run stops where an unbroken one would."""

    def __init__(self, directory: Path, resumed_iteration: int) -> None:
        self._path = directory / "looks.jsonl"
        self._log = MetricLog(self._path, resumed_iteration)
        self.rows: list[dict[str, float]] = []
        for row in read_metrics(self._path):
            self.rows.append({"iteration": row.pop("step"), **row})

    def would_be_best(self, metrics: dict[str, float]) -> bool:
        return not self.rows or metrics["objective"] > self.best()["objective"]

    def record(self, iteration: int, metrics: dict[str, float]) -> None:
        names = ("objective", "reward", "kl", "helpfulness", "safety")
        seen = {name: metrics[name] for name in names}
        self._log.append({"step": iteration, **seen})
        self.rows.append({"iteration": iteration, **seen})

    def best(self) -> dict[str, float]:
        return max(self.rows, key=lambda row: row["objective"])

    def since_best(self) -> int:
        """Return how many looks have passed since the best."""
        return len(self.rows) - 1 - self.rows.index(self.best()) if self.rows else 0
