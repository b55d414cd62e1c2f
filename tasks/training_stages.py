"""What the worker does in each training stage: load, make batches, fit, save."""

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama2_core.chat import encode_dialog
from llama2_core.config import GRADES, LoopConfig, LoRAConfig, ModelConfig
from llama2_core.data.packing import pack_dialogs
from llama2_core.data.sampler import bucketed_indices, step_indices
from llama2_core.errors import ConfigError, DataError
from llama2_core.footprint import parameter_count
from llama2_core.interop import native
from llama2_core.interop.peft import with_adapter, write_adapter
from llama2_core.lora import adapter_weights, add_adapters, fill_adapted, merged_weights
from llama2_core.model import ScalarModel, Transformer
from llama2_core.quantized import quantize
from llama2_core.rlhf.pairs import Pair, mix
from llama2_core.rlhf.reward import (
    pair_batch,
    reward_objective,
    score_rows,
)
from llama2_core.seeding import derive_seed, generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import checkpoint, distributed
from llama2_core.training.objectives import TokenBatch, token_objective
from storage.shards import TokenShards
from tasks.dpo_recipe import DPORecipe
from tasks.fit import Examples, Training, fit
from tasks.mixture import read_mixture
from tasks.recipes import FineTuneRecipe, PretrainRecipe
from tasks.reward_recipe import RewardRecipe
from tasks.stage import Fill, Stage, as_reward_model, empty, newly_initialised, training_summary
from tasks.tables import read_comparisons, read_lessons


def pretrain(stage: Stage) -> dict:
    """Train a base model on token shards, from nothing or from a start. Llama 2 section 2.2."""
    recipe = PretrainRecipe.model_validate(stage.recipe)
    config, loop, start = recipe.model, recipe.loop, stage.parents.get("start")
    tokenizer = Tokenizer.load(stage.parents["tokenizer"] / "tokenizer.model")
    shards, mixture = read_mixture(stage.parents["tokens"], stage.seed)
    held_out = TokenShards(stage.parents["tokens"], "validation")
    row_tokens = shards.rows(np.array([0])).shape[1] - 1
    refuse_misfits(config, tokenizer, row_tokens)
    names = shards.sources

    def collate(rows: np.ndarray, of: TokenShards) -> TokenBatch:
        tokens = torch.from_numpy(of.rows(rows))
        return TokenBatch(
            tokens,
            torch.ones_like(tokens[:, 1:], dtype=torch.bool),
            torch.from_numpy(of.begins(rows)) if recipe.separate_documents else None,
            torch.from_numpy(of.source_numbers(rows, names)) if len(names) > 1 else None,
        )

    training = Training(
        objective=token_objective(recipe.label_smoothing, names),
        examples=Examples(len(mixture), partial(collate, of=shards)),
        order=lambda step: mixture.rows(step_indices(len(mixture), loop.rows, stage.seed, step)),
        loop=loop,
        row_tokens=row_tokens,
        held_out=Examples(len(held_out), partial(collate, of=held_out)),
        learned_from={"token shards": shards.fingerprint, "tokenizer": tokenizer.digest},
    )
    fill = partial(checkpoint.fill_policy, directory=start) if start else newly_initialised(stage.seed)
    model = empty(Transformer, config)
    state = fit(stage, model, fill, training)
    checkpoint.save_model(stage.directory, model, tokenizer)
    return {
        **training_summary(stage),
        "steps": state.step,
        "tokens": loop.steps * loop.rows * row_tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "token_fingerprint": shards.fingerprint,
    }


def refuse_misfits(config: ModelConfig, tokenizer: Tokenizer, row_tokens: int) -> None:
    """Raise ConfigError where tokenizer, rows and model do not fit each other."""
    if config.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"pretrain.model.vocab_size is {config.vocab_size}; the tokenizer has {tokenizer.vocab_size}"
        )
    if row_tokens > config.max_seq_len:
        raise ConfigError(
            f"the token shards have rows of {row_tokens} tokens and one more; pretrain.model.max_seq_len is "
            f"{config.max_seq_len}: build shards with tokens.row_tokens {config.max_seq_len + 1}, or raise it"
        )


def fine_tune(stage: Stage) -> dict:
    """Fine-tune the base model on answers: demonstrations (SFT) or the best samples (rejection sampling)."""
    recipe, base = FineTuneRecipe.model_validate(stage.recipe), stage.parents["base"]
    config, tokenizer = checkpoint.load_config(base), Tokenizer.load(base / "tokenizer.model")
    lessons = list(read_lessons(stage.parents))
    random.Random(derive_seed(stage.seed, "packing")).shuffle(lessons)
    encoded = [encode_dialog(lesson.dialog, tokenizer, lesson.learn) for lesson in lessons]
    kept = round(len(encoded) * (1 - recipe.validation_share))

    def packed(part: Sequence) -> tuple[Examples, np.ndarray, int]:
        tokens, mask, begins, left_out = pack_dialogs(part, config.max_seq_len + 1, tokenizer.eos_id)

        def collate(rows: np.ndarray) -> TokenBatch:
            apart = torch.from_numpy(begins[rows]) if recipe.separate_dialogs else None
            return TokenBatch(torch.from_numpy(tokens[rows]), torch.from_numpy(mask[rows, 1:]), apart)

        return Examples(len(tokens), collate), mask, left_out

    examples, mask, left_out = packed(encoded[:kept])
    held_out, _, _ = packed(encoded[kept:])
    loop = epochs_loop(examples.total, recipe)
    training = Training(
        objective=token_objective(),
        examples=examples,
        order=lambda step: step_indices(examples.total, loop.rows, stage.seed, step),
        loop=loop,
        row_tokens=config.max_seq_len,
        held_out=held_out if held_out.total else None,
        learned_from={"tokenizer": tokenizer.digest, "dialogs": digest_of_rows(encoded)},
    )
    fill: Fill = partial(checkpoint.fill_policy, directory=base)
    model = empty(Transformer, config)
    if recipe.lora:
        if recipe.base_bits:
            model, _ = checkpoint.load_policy(base)
            quantize(model, recipe.base_bits)
        fill = adapted(model, recipe.lora, fill, stage.seed)
    state = fit(stage, model, fill, training)
    save_policy(stage.directory, base, model, tokenizer, recipe.lora)
    facts = {"dialogs": len(lessons), "packed_rows": examples.total, "left_out_too_long": left_out}
    return {**training_summary(stage), **facts, "steps": state.step, "learned_share": float(mask.mean())}


def adapted(network: Transformer, lora: LoRAConfig, fill: Fill, seed: int) -> Fill:
    """Put adapters on a network, the same on every rank; return what fills the model with them."""
    draws = partial(generator, seed, "adapters")
    add_adapters(network, lora, draws())
    return partial(fill_adapted, fill=fill, config=lora, generator=draws())


def save_policy(
    directory: Path, base: Path, model: Transformer, tokenizer: Tokenizer, lora: LoRAConfig | None
) -> None:
    """Write a trained model, and its adapter where it has one; all ranks must call."""
    if lora:
        save_adapted(directory, base, model, lora)
    else:
        checkpoint.save_model(directory, model, tokenizer)


def save_adapted(directory: Path, base: Path, model: Transformer, lora: LoRAConfig) -> None:
    """Write the adapter, and the model with it merged into the unquantized base; all ranks must call."""
    adapter = adapter_weights(model)
    if distributed.rank() == 0:
        write_adapter(directory / "adapter", adapter, lora, model.config)
        native.write(with_adapter(native.read(base), directory / "adapter"), directory)


def reward(stage: Stage) -> dict:
    """Train a reward model from the chat model and test it by grade. Llama 2 section 3.2.2."""
    recipe, chat = RewardRecipe.model_validate(stage.recipe), stage.parents["chat"]
    config, tokenizer = checkpoint.load_config(chat), Tokenizer.load(chat / "tokenizer.model")
    sources = [path for role, path in sorted(stage.parents.items()) if role.startswith("comparisons")]
    train, held_out = read_comparisons(sources, tokenizer, config.max_seq_len)
    other = "safety" if recipe.domain == "helpfulness" else "helpfulness"
    random_ = random.Random(derive_seed(stage.seed, "mix"))
    pairs = mix(train[recipe.domain], train[other], recipe.other_share, random_)
    if not pairs:
        raise DataError(f"there is no {recipe.domain} comparison to train on")
    if recipe.pairs_share < 1:
        random_.shuffle(pairs)
        pairs = pairs[: math.ceil(recipe.pairs_share * len(pairs))]
    loop = with_warmup(epochs_loop(len(pairs), recipe), recipe.warmup_share)
    lengths = np.array([max(len(pair.chosen), len(pair.rejected)) for pair in pairs])

    def examples(of: Sequence[Pair]) -> Examples:
        return Examples(len(of), lambda rows: pair_batch([of[row] for row in rows], recipe.reward.margin))

    training = Training(
        objective=reward_objective(recipe.reward),
        examples=examples(pairs),
        order=lambda step: bucketed_indices(lengths, loop.rows, stage.seed, step, loop.steps),
        loop=loop,
        row_tokens=config.max_seq_len,
        held_out=examples(held_out[recipe.domain]) if held_out[recipe.domain] else None,
        learned_from={
            "tokenizer": tokenizer.digest,
            "comparisons": digest_of_rows((pair.chosen, pair.rejected) for pair in pairs),
        },
    )
    model, fill = empty(ScalarModel, config), as_reward_model(chat, stage.seed)
    if recipe.lora:
        fill = adapted(model.transformer, recipe.lora, fill, stage.seed)
    state = fit(stage, model, fill, training)
    checkpoint.save_weights(stage.directory, merged_weights(model), model.config, tokenizer)
    accuracy = {domain: accuracy_by_grade(model, rows) for domain, rows in held_out.items()}
    facts = {"pairs": len(pairs), "parameters": parameter_count(config, scalar=True)}
    return {**training_summary(stage), **facts, "steps": state.step, "accuracy": accuracy}


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


def epochs_loop(total: int, recipe: FineTuneRecipe | RewardRecipe | DPORecipe) -> LoopConfig:
    """Return the loop that passes over `total` rows as often as the recipe says."""
    if total == 0:
        raise DataError("there is nothing to train on")
    steps = math.ceil(total * recipe.epochs / recipe.rows)
    return LoopConfig(steps=steps, rows=recipe.rows, precision=recipe.precision, optimizer=recipe.optimizer)


def with_warmup(loop: LoopConfig, share: float) -> LoopConfig:
    """Return the loop with a warm-up of at least this share of its updates."""
    steps = max(loop.optimizer.warmup_steps, round(share * loop.steps))
    optimizer = loop.optimizer.model_copy(update={"warmup_steps": steps})
    return loop.model_copy(update={"optimizer": optimizer})


def digest_of_rows(rows: Iterable[Any]) -> str:
    """Return the SHA-256 of encoded examples, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()
