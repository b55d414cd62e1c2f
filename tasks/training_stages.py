"""What the worker does in each training stage: load, make batches, fit, save."""

import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import torch

from llama2_core.chat import encode_dialog
from llama2_core.config import GRADES, LoopConfig, LoRAConfig, OptimizerConfig
from llama2_core.data.packing import pack_dialogs
from llama2_core.data.sampler import bucketed_indices, rank_share, step_indices
from llama2_core.errors import ConfigError, DataError
from llama2_core.interop import native
from llama2_core.interop.peft import with_adapter, write_adapter
from llama2_core.lora import adapter_weights, add_adapters
from llama2_core.model import Transformer
from llama2_core.quantized import quantize
from llama2_core.rlhf.pairs import Pair, mix
from llama2_core.rlhf.ppo import ActorCritic, Judges, judge, ppo
from llama2_core.rlhf.reward import (
    pair_batch,
    reward_objective,
    score_rows,
)
from llama2_core.rlhf.rollout import Rollout, roll_out
from llama2_core.seeding import derive_seed, generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, distributed
from llama2_core.training.loop import Loss, TrainState
from llama2_core.training.objectives import TokenBatch, next_token_objective
from llama2_core.training.optim import adamw
from storage.metrics import MetricLog, read_metrics
from storage.shards import TokenShards
from tasks.mixture import read_mixture, refuse_other_tokens
from tasks.recipes import FineTuneRecipe, PPORecipe, PretrainRecipe, RewardRecipe
from tasks.stage import Stage, fit, loss_summary, new_model, new_reward_model
from tasks.tables import Prompt, read_comparisons, read_lessons, read_prompts


def pretrain(stage: Stage) -> dict:
    """Train the base model on token shards. Llama 2 section 2.2."""
    recipe = PretrainRecipe.model_validate(stage.recipe)
    tokenizer = Tokenizer.load(stage.parents["tokenizer"] / "tokenizer.model")
    if recipe.model.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"pretrain.model.vocab_size is {recipe.model.vocab_size}; the tokenizer has {tokenizer.vocab_size}"
        )
    shards, mixture = read_mixture(stage.parents["tokens"], stage.seed)
    if distributed.rank() == 0:
        refuse_other_tokens(stage.checkpoints, shards.fingerprint)
    loop = recipe.loop

    def batches(step: int) -> list[TokenBatch]:
        places = step_indices(len(mixture), loop.rows, stage.seed, step)
        share = mixture.rows(rank_share(places, distributed.rank(), distributed.world_size()))
        return [all_learned(shards.rows(part)) for part in split(share, loop.micro_rows)]

    model = new_model(recipe.model, stage.seed)
    objective = partial(next_token_objective, label_smoothing=recipe.label_smoothing)
    state = fit(stage, model, objective, batches, loop)
    checkpoint.save_model(stage.directory, model, tokenizer)
    held_out = TokenShards(stage.parents["tokens"], "validation")
    with torch.no_grad():
        loss: Loss = next_token_objective(state.model, all_learned(held_out.rows(np.arange(len(held_out)))))
    return {
        **loss_summary(stage),
        "steps": state.step,
        "tokens": loop.steps * loop.rows * (shards.rows(np.array([0])).shape[1] - 1),
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "validation_loss": loss.total.item() / loss.count,
        "token_fingerprint": shards.fingerprint,
    }


def fine_tune(stage: Stage) -> dict:
    """Fine-tune the base model on answers: demonstrations (SFT) or the best samples (rejection sampling)."""
    recipe = FineTuneRecipe.model_validate(stage.recipe)
    model, tokenizer = checkpoint.load_policy(stage.parents["base"])
    dialogs = [dialog for _, dialog in read_lessons(stage.parents)]
    random.Random(derive_seed(stage.seed, "packing")).shuffle(dialogs)
    encoded = [encode_dialog(dialog, tokenizer) for dialog in dialogs]
    tokens, mask, left_out = pack_dialogs(encoded, model.config.max_seq_len + 1, tokenizer.eos_id)
    loop = epochs_loop(len(tokens), recipe.epochs, recipe.rows, recipe.optimizer)

    def batches(step: int) -> list[TokenBatch]:
        rows = step_indices(len(tokens), loop.rows, stage.seed, step)
        share = rank_share(rows, distributed.rank(), distributed.world_size())
        return [
            TokenBatch(torch.from_numpy(tokens[part]), torch.from_numpy(mask[part, 1:]))
            for part in split(share, loop.micro_rows)
        ]

    if recipe.lora:
        if recipe.base_bits:
            quantize(model, recipe.base_bits)
        add_adapters(model, recipe.lora, generator(stage.seed, "adapters"))
    state = fit(stage, model, next_token_objective, batches, loop)
    if recipe.lora:
        _save_adapted(stage, model, recipe.lora)
    else:
        checkpoint.save_model(stage.directory, model, tokenizer)
    facts = {"dialogs": len(dialogs), "packed_rows": len(tokens), "left_out_too_long": left_out}
    return {**loss_summary(stage), **facts, "steps": state.step, "learned_share": float(mask.mean())}


def _save_adapted(stage: Stage, model: Transformer, lora: LoRAConfig) -> None:
    """Write the adapter, and the model with it merged into the unquantized base; all ranks must call."""
    adapter = adapter_weights(model)
    if distributed.rank() == 0:
        write_adapter(stage.directory / "adapter", adapter, lora, model.config)
        native.write(
            with_adapter(native.read(stage.parents["base"]), stage.directory / "adapter"), stage.directory
        )


def reward(stage: Stage) -> dict:
    """Train a reward model from the chat model and test it by grade. Llama 2 section 3.2.2."""
    recipe = RewardRecipe.model_validate(stage.recipe)
    model, tokenizer = new_reward_model(stage.parents["chat"], stage.seed)
    sources = [path for role, path in sorted(stage.parents.items()) if role.startswith("comparisons")]
    limit = model.config.max_seq_len
    train, held_out = read_comparisons(sources, tokenizer, limit)
    other = "safety" if recipe.domain == "helpfulness" else "helpfulness"
    random_ = random.Random(derive_seed(stage.seed, "mix"))
    pairs = mix(train[recipe.domain], train[other], recipe.other_share, random_)
    if not pairs:
        raise DataError(f"there is no {recipe.domain} comparison to train on")
    loop = epochs_loop(len(pairs), recipe.epochs, recipe.rows, recipe.optimizer)
    lengths = np.array([max(len(pair.chosen), len(pair.rejected)) for pair in pairs])

    def batches(step: int) -> list:
        rows = bucketed_indices(lengths, loop.rows, stage.seed, step, loop.steps)
        share = rank_share(rows, distributed.rank(), distributed.world_size())
        return [
            pair_batch([pairs[index] for index in part], recipe.reward.margin)
            for part in split(share, loop.micro_rows)
        ]

    state = fit(stage, model, reward_objective(recipe.reward), batches, loop)
    checkpoint.save_model(stage.directory, model, tokenizer)
    accuracy = {domain: accuracy_by_grade(model, rows) for domain, rows in held_out.items()}
    return {**loss_summary(stage), "pairs": len(pairs), "steps": state.step, "accuracy": accuracy}


def accuracy_by_grade(model: torch.nn.Module, pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Return right answers and number of pairs, for each grade and for all (Llama 2 Table 8)."""
    chosen = score_rows(model, [pair.chosen for pair in pairs])
    rejected = score_rows(model, [pair.rejected for pair in pairs])
    right = [a > b for a, b in zip(chosen, rejected, strict=True)]
    table = {}
    for grade in GRADES:
        hits = [hit for hit, pair in zip(right, pairs, strict=True) if pair.grade == grade]
        table[grade] = {"right": sum(hits), "n": len(hits)}
    return {**table, "all": {"right": sum(right), "n": len(right)}}


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
    checkpoint.resume(stage.checkpoints, state)
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
    for report in iterations if looks.since_best() < recipe.ppo.patience else ():
        row = {"step": report.iteration, "of": recipe.ppo.iterations, **report.metrics}
        goes_on = True
        if report.iteration % recipe.ppo.evaluate_every == 0 or report.iteration == recipe.ppo.iterations:
            goes_on = look(report.iteration)
            row |= {
                f"held_out_{name}": value for name, value in looks.rows[-1].items() if name != "iteration"
            }
            checkpoint.save_checkpoint(stage.checkpoints, state)
        log.append(row)
        if not goes_on:
            break
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
    rollout = roll_out(policy, rows, seeds, config, tokenizer.eos_id, stage.slots)
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


def all_learned(tokens: np.ndarray) -> TokenBatch:
    rows = torch.from_numpy(tokens)
    return TokenBatch(rows, torch.ones_like(rows[:, 1:], dtype=torch.bool))


def split(indices: np.ndarray, micro_rows: int) -> list[np.ndarray]:
    """Cut a batch into micro-batches of at most `micro_rows`."""
    return np.array_split(indices, math.ceil(len(indices) / micro_rows))


def epochs_loop(total: int, epochs: int, rows: int, optimizer: OptimizerConfig) -> LoopConfig:
    """Return the loop that passes over `total` rows `epochs` times."""
    if total == 0:
        raise DataError("there is nothing to train on")
    return LoopConfig(steps=math.ceil(total * epochs / rows), rows=rows, optimizer=optimizer)
