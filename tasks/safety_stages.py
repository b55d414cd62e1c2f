"""What the worker does in the safety stages: answers behind preprompts and the gate, scores of held-out answers."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llama2_core.chat import Dialog, encode_prompt
from llama2_core.errors import DataError
from llama2_core.evaluation.statistics import bootstrap, proportion
from llama2_core.generate import Request
from llama2_core.model import ScalarModel
from llama2_core.rlhf.context_distillation import behind, is_kept
from llama2_core.rlhf.reward import score_rows
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy, load_reward_model
from storage.safety_tables import ANSWERS, DISTILLED
from storage.schemas import RESPONSES, read_table, write_table
from tasks.safety_recipe import ContextDistillationRecipe
from tasks.sampling_stages import in_chunks, sample
from tasks.stage import Stage, reward_model
from tasks.tables import Prompt, dialog_from_json, dialog_to_json, encode_answer, read_prompts


def distilled(stage: Stage) -> dict:
    """Answer adversarial prompts with and without a preprompt; keep what the safety reward model prefers."""
    recipe = ContextDistillationRecipe.model_validate(stage.recipe)
    model, tokenizer = load_policy(stage.parents["chat"])
    safety = reward_model(stage, "safety", tokenizer)
    prompts = [p for p in read_prompts(stage.parents["dialogs"], "train", tokenizer) if p.safety]
    random.Random(derive_seed(stage.seed, "distillation prompts")).shuffle(prompts)
    prompts = prompts[: recipe.prompts]
    told = {prompt.id: preprompt_of(recipe, prompt, stage.seed) for prompt in prompts}
    room = model.config.max_seq_len - recipe.sampling.max_new_tokens
    tokens = {p.id: encode_prompt(behind(told[p.id], p.dialog), tokenizer) for p in prompts}
    fitting = [prompt for prompt in prompts if len(tokens[prompt.id]) <= room]
    if not fitting:
        raise DataError(
            f"none of {len(prompts)} adversarial prompts fits the context of {model.config.max_seq_len} tokens behind "
            "its preprompt, with an answer: shorten recipe.preprompts or recipe.sampling.max_new_tokens"
        )
    config = recipe.sampling.at(recipe.temperature)

    def answer(chunk: Sequence[Prompt], asked: Sequence[Sequence[int]], name: str) -> list[str]:
        seeds = [derive_seed(stage.seed, "distil", name, prompt.id) for prompt in chunk]
        asks = [Request(row, seed, config) for row, seed in zip(asked, seeds, strict=True)]
        return sample(stage, model, tokenizer, asks)

    def work(chunk: Sequence[Prompt]) -> list[dict[str, Any]]:
        original = answer(chunk, [prompt.tokens for prompt in chunk], "original")
        response = answer(chunk, [tokens[prompt.id] for prompt in chunk], recipe.style)
        dialogs = [prompt.dialog for prompt in chunk]
        before, after = (scores(safety, dialogs, texts, tokenizer) for texts in (original, response))
        kept = is_kept(after, before, [prompt.safety for prompt in chunk])
        return [
            {
                "prompt_id": prompt.id,
                "risk_category": prompt.facts.get("category", ""),
                "attack_vector": prompt.facts.get("attack", ""),
                "dialog": dialog_to_json(prompt.dialog),
                "preprompt": told[prompt.id],
                "original": original[row],
                "response": response[row],
                "original_safety": float(before[row]),
                "safety": float(after[row]),
                "kept": bool(kept[row]),
            }
            for row, prompt in enumerate(chunk)
        ]

    rows = in_chunks(stage, fitting, work)
    write_table(stage.directory / "distilled.parquet", rows, DISTILLED)
    return {"left_out_too_long": len(prompts) - len(fitting), **gate_summary(rows)}


def preprompt_of(recipe: ContextDistillationRecipe, prompt: Prompt, seed: int) -> str:
    """Return the preprompt for a prompt's risk category, or one that a stream of the prompt's own draws."""
    if recipe.style == "tailored" and prompt.facts.get("category"):
        return recipe.preprompts.for_category(prompt.facts["category"])
    return recipe.preprompts.draw(random.Random(derive_seed(seed, "preprompt", prompt.id)))


def scores(
    model: ScalarModel, dialogs: Sequence[Dialog], answers: Sequence[str], tokenizer: Tokenizer
) -> np.ndarray:
    """Return a reward model's score of each answer to its dialog, float32 in (0, 1)."""
    limit = model.config.max_seq_len
    rows = [encode_answer(d, a, tokenizer)[:limit] for d, a in zip(dialogs, answers, strict=True)]
    return torch.tensor(score_rows(model, rows)).sigmoid().numpy()


def gate_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the gate kept and rejected, by category too, and safety scores before and after it."""
    before, after = (np.array([row[name] for row in rows]) for name in ("original_safety", "safety"))
    kept = np.array([row["kept"] for row in rows])
    return {
        "prompts": len(rows),
        "kept": int(kept.sum()),
        "rejected": int((~kept).sum()),
        "safety": {
            name: {"mean": bootstrap(of).as_dict(), "median": bootstrap(of, np.median).as_dict()}
            for name, of in (("original", before), ("behind preprompt", after))
        },
        "lift": bootstrap(after - before).as_dict(),
        "kept_lift": bootstrap((after - before)[kept]).as_dict(),
        "kept_by_category": Counter(row["risk_category"] for row in rows if row["kept"]),
        "rejected_by_category": Counter(row["risk_category"] for row in rows if not row["kept"]),
    }


def answers(stage: Stage) -> dict:
    """Score the answers of an evaluation by both reward models, and count refusals where they are false."""
    rows = read_table(stage.parents["evaluation"] / "responses.parquet", RESPONSES)
    rows = [row for row in rows if row["suite"] == "side by side"]
    dialogs, texts = [dialog_from_json(row["prompt"]) for row in rows], [row["response"] for row in rows]
    found = {}
    for role in ("helpfulness", "safety"):
        model, tokenizer = load_reward_model(stage.parents[role])
        found[role] = scores(model, dialogs, texts, tokenizer)
    kept = ("prompt_id", "kind", "response", "unsafe", "refused")
    scored = [
        {
            **{name: row[name] for name in kept},
            **{role: float(found[role][place]) for role in found},
        }
        for place, row in enumerate(rows)
    ]
    write_table(stage.directory / "answers.parquet", scored, ANSWERS)
    return answer_summary(scored)


def answer_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return safety of adversarial prompts' answers, helpfulness of the others', and refusals of harmless prompts.

    The paper counts false refusals on its helpfulness test set and on a borderline set, apart. Section 4.2.3.
    """
    unsafe = [row for row in rows if row["kind"] == "unsafe"]
    borderline = [row for row in rows if row["kind"] == "borderline"]
    helpful = [row for row in rows if row["kind"] not in ("unsafe", "borderline")]
    safety, helpfulness = [row["safety"] for row in unsafe], [row["helpfulness"] for row in helpful]
    return {
        "safety": {"mean": bootstrap(safety).as_dict(), "median": bootstrap(safety, np.median).as_dict()},
        "helpfulness": {"mean": bootstrap(helpfulness).as_dict()},
        "unsafe_answers": proportion(sum(row["unsafe"] for row in unsafe), len(unsafe)).as_dict(),
        **{
            f"{name}_refusals": proportion(sum(row["refused"] for row in of), len(of)).as_dict()
            for name, of in (("helpful", helpful), ("borderline", borderline))
        },
    }
