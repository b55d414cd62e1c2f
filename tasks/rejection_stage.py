"""What the worker does in rejection sampling: draw K answers a prompt, score them, choose. Llama 2 section 3.2.3."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama2_core.errors import DataError
from llama2_core.model import ScalarModel
from llama2_core.rlhf.rejection import best_temperature, reward_curve, select_best, temperature_curve
from llama2_core.rlhf.reward import combined_score, score_rows
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import distributed
from storage.schemas import SAMPLES, read_rows, write_table
from tasks.sampling_engines import Ask, engine_of
from tasks.sampling_recipe import RejectionRecipe
from tasks.sampling_stages import in_chunks
from tasks.stage import Stage, reward_model
from tasks.tables import Prompt, dialog_from_json, dialog_to_json, encode_answer, read_prompts

Row = dict[str, Any]


def samples(stage: Stage) -> dict:
    """Draw and score the samples, let those that earlier rounds chose compete, and mark the best of each prompt."""
    recipe = RejectionRecipe.model_validate(stage.recipe)
    tokenizer = Tokenizer.load(stage.parents["chat"] / "tokenizer.model")
    judges = Judges(stage, tokenizer, recipe.safety_threshold)
    prompts = read_prompts(stage.parents["dialogs"], "train", tokenizer)
    random.Random(derive_seed(stage.seed, "rejection prompts")).shuffle(prompts)
    prompts = prompts[: recipe.prompts]
    temperatures = [recipe.temperatures[k % len(recipe.temperatures)] for k in range(recipe.samples)]
    engine = engine_of(stage, recipe.engine, prompts, recipe.samples)

    def work(chunk: Sequence[Prompt]) -> list[Row]:
        asks = [
            Ask(prompt, k, derive_seed(stage.seed, "reject", prompt.id, k), recipe.sampling.at(temperature))
            for prompt in chunk
            for k, temperature in enumerate(temperatures)
        ]
        answers = engine.draw(asks)
        return judges.scored([_row(ask, answer) for ask, answer in zip(asks, answers, strict=True)])

    drawn = in_chunks(stage, prompts, work)
    carried = judges.scored(carried_over(stage.parents, drawn))
    rows = [*drawn, *carried]
    best = select_best([row["dialog"] for row in rows], [row["reward"] for row in rows])
    rows = [row | {"selected": chosen} for row, chosen in zip(rows, best, strict=True)]
    write_table(stage.directory / "samples.parquet", rows, SAMPLES)
    lessons = [row for row in rows if row["selected"]]
    rewards = np.array([row["reward"] for row in drawn]).reshape(-1, recipe.samples)
    by_temperature = temperature_curve(rewards, temperatures)
    return {
        "samples": len(drawn),
        "prompts": len(prompts),
        "distinct": len({(row["dialog"], row["response"]) for row in drawn}),
        "lessons": len(lessons),
        "carried_over": len(carried),
        "lessons_carried_over": sum(row["origin"] is not None for row in lessons),
        "reward_curve": reward_curve(rewards, range(1, recipe.samples + 1)),
        "temperature_curve": by_temperature,
        "best_temperature": best_temperature(by_temperature),
        "mean_reward": float(rewards.mean()),
        "selected_reward": float(np.mean([row["reward"] for row in lessons])),
    }


def _row(ask: Ask, answer: str) -> Row:
    return {
        "prompt_id": ask.prompt.id,
        "sample": ask.sample,
        "kind": ask.prompt.kind,
        "tagged": ask.prompt.safety,
        "dialog": dialog_to_json(ask.prompt.dialog),
        "temperature": ask.config.temperature,
        "response": answer,
        "origin": None,
    }


def carried_over(parents: Mapping[str, Path], drawn: Sequence[Row]) -> list[Row]:
    """Return what the parents `earlier1` to `earliern` chose, without scores; what is there already is left out."""
    seen = {(row["dialog"], row["response"]) for row in drawn}
    kept = []
    for role, directory in parents.items():
        if not role.startswith("earlier"):
            continue
        for row in read_rows(directory / "samples.parquet", SAMPLES):
            if row["selected"] and (row["dialog"], row["response"]) not in seen:
                seen.add((row["dialog"], row["response"]))
                kept.append(row | {"origin": row["origin"] or directory.name})
    return kept


class Judges:
    """Both reward models, and what they are combined by."""

    def __init__(self, stage: Stage, tokenizer: Tokenizer, safety_threshold: float) -> None:
        """Raises ConfigError for a reward model that cannot read the chat model's tokens."""
        self._tokenizer, self._threshold = tokenizer, safety_threshold
        self._models: dict[str, ScalarModel] = {
            role: reward_model(stage, role, tokenizer).to(distributed.device())
            for role in ("helpfulness", "safety")
        }

    def scored(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows with helpfulness, safety and combined reward R_c of their answers, all in (0, 1).

        Raises DataError naming the prompt whose reward is no number.
        """
        limit = self._models["helpfulness"].config.max_seq_len
        tokens = [
            encode_answer(dialog_from_json(row["dialog"]), row["response"], self._tokenizer)[:limit]
            for row in rows
        ]
        raw = {role: torch.tensor(score_rows(model, tokens)) for role, model in self._models.items()}
        tagged = torch.tensor([row["tagged"] for row in rows], dtype=torch.bool)
        reward = combined_score(raw["helpfulness"], raw["safety"], tagged, self._threshold)
        scores = {role: values.sigmoid() for role, values in raw.items()} | {"reward": reward}
        if not reward.isfinite().all():
            row = rows[int(reward.isfinite().logical_not().nonzero()[0])]
            raise DataError(f"a reward model gives no number for an answer to prompt {row['prompt_id']}")
        columns = {name: values.tolist() for name, values in scores.items()}
        return [
            row | {name: values[place] for name, values in columns.items()} for place, row in enumerate(rows)
        ]
