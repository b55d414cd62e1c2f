"""What the worker does with models beside each other: they answer, reward models or a language model judge."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from typing import Any

from llama2_core.errors import ConfigError, DataError
from llama2_core.model import ScalarModel
from llama2_core.rlhf.reward import score_rows
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from llama2_core.training import distributed
from llama2_core.training.checkpoint import load_reward_model
from storage.arena_tables import REPLIES, SHEET, VERDICTS
from storage.schemas import read_table, write_table
from tasks.arena_recipe import RatersRecipe, RepliesRecipe, RewardsRecipe, VerdictsRecipe
from tasks.arena_tally import asked, by_margin, in_both_orders, signed, summary
from tasks.chat_server import ChatServer
from tasks.comparison_stage import JUDGED_AT_ONCE
from tasks.judge import Judge, read_reply
from tasks.recipes import JudgeRecipe
from tasks.sampling_engines import Ask, engine_of
from tasks.sampling_stages import in_chunks
from tasks.stage import Stage
from tasks.tables import Prompt, dialog_from_json, encode_answer, read_prompts

Rows = list[dict[str, Any]]


def replies(stage: Stage) -> dict:
    """Answer every prompt at every temperature."""
    recipe = RepliesRecipe.model_validate(stage.recipe)
    chat = stage.parents.get("chat")
    tokenizer = Tokenizer.load(chat / "tokenizer.model") if chat else None
    prompts = read_prompts(stage.parents["prompts"], "held_out", tokenizer)
    drawn = [
        (temperature, sample, recipe.sampling.at(temperature))
        for temperature in recipe.temperatures
        for sample in range(recipe.samples)
    ]
    asks = [
        Ask(prompt, place, derive_seed(stage.seed, "reply", prompt.id, str(temperature), sample), config)
        for prompt in prompts
        for place, (temperature, sample, config) in enumerate(drawn)
    ]
    engine = engine_of(stage, recipe.engine, prompts, len(drawn))

    def work(chunk: Sequence[Ask]) -> Rows:
        return [
            {
                "prompt_id": ask.prompt.id,
                "temperature": ask.config.temperature,
                "sample": drawn[ask.sample][1],
                "response": answer,
            }
            for ask, answer in zip(chunk, engine.draw(chunk), strict=True)
        ]

    rows = in_chunks(stage, asks, work)
    write_table(stage.directory / "replies.parquet", rows, REPLIES)
    return {"prompts": len(prompts), "answers": len(rows), "empty": sum(not row["response"] for row in rows)}


def verdicts(stage: Stage) -> dict:
    """Judge every pair of a sheet."""
    rows = read_table(stage.parents["sheet"] / "sheet.parquet", SHEET)
    judge = VerdictsRecipe.model_validate(stage.recipe).judge
    judged = asked(rows)
    match judge:
        case RewardsRecipe():
            work = by_rewards(stage, judge.tie_margin)
        case JudgeRecipe():
            work = by_judge(stage, Judge(ChatServer.parse(judge.server)))
        case RatersRecipe():
            raise ConfigError("people rate on the annotation page, not in a worker")
    found = {row["id"]: row for row in in_chunks(stage, judged, work)}
    equal = {"outcome": "tie", "detail": "equal answers", "ratings": [], "said": []}
    made = [found.get(row["id"], row | equal) for row in rows]
    write_table(stage.directory / "verdicts.parquet", made, VERDICTS)
    return summary(made)


def by_rewards(stage: Stage, tie_margin: float) -> Callable[[Sequence[dict[str, Any]]], Rows]:
    """Return what judges by reward models, which see one answer at a time: no order can sway them."""
    loaded = {role: load_reward_model(stage.parents[role]) for role in ("helpfulness", "safety")}
    for model, _ in loaded.values():
        model.to(distributed.device())

    def work(chunk: Sequence[dict[str, Any]]) -> Rows:
        made = []
        for role, (model, tokenizer) in loaded.items():
            rows = [row for row in chunk if row["safety"] == (role == "safety")]
            margins = score_margins(model, tokenizer, rows)
            made += [row | _by_margin(margin, tie_margin) for row, margin in zip(rows, margins, strict=True)]
        return made

    return work


def score_margins(
    model: ScalarModel, tokenizer: Tokenizer, rows: Sequence[dict[str, Any]]
) -> list[float | None]:
    """Return the first answer's raw score less the second's; none where one is longer than the model's context."""
    dialogs = [dialog_from_json(row["dialog"]) for row in rows]
    pairs = [
        [encode_answer(dialog, answer, tokenizer) for answer in row["answers"]]
        for dialog, row in zip(dialogs, rows, strict=True)
    ]
    fit = [max(map(len, pair)) <= model.config.max_seq_len for pair in pairs]
    scores = iter(score_rows(model, [tokens for pair in compress(pairs, fit) for tokens in pair]))
    return [next(scores) - next(scores) if fits else None for fits in fit]


def _by_margin(margin: float | None, tie_margin: float) -> dict[str, Any]:
    if margin is None or not math.isfinite(margin):
        detail = "longer than the context" if margin is None else "no number"
        return {"outcome": "unjudged", "detail": detail, "ratings": [], "said": []}
    return {"outcome": by_margin(margin, tie_margin), "detail": "", "ratings": [margin], "said": []}


def by_judge(stage: Stage, judge: Judge) -> Callable[[Sequence[dict[str, Any]]], Rows]:
    """Return what judges by a language model, in both orders.

    Raises DataError where nothing can be read of all that it says of the first pairs.
    """
    understood = any(stage.checkpoints.glob("chunk-*"))  # in an earlier try

    def one(row: dict[str, Any]) -> dict[str, Any]:
        facts = {"category": row["category"]}
        prompt = Prompt(
            row["prompt_id"], row["kind"], row["safety"], dialog_from_json(row["dialog"]), facts, []
        )
        first, second = row["answers"]
        said = judge.ask(prompt, first, second, derive_seed(stage.seed, "judge", row["id"]))
        read = [verdict and signed(verdict) for verdict in map(read_reply, said)]
        straight, turned = read[0], None if read[1] is None else -read[1]
        outcome, detail = in_both_orders(straight, turned)
        ratings = [rating for rating in (straight, turned) if rating is not None]
        return row | {"outcome": outcome, "detail": detail, "ratings": ratings, "said": said}

    def work(chunk: Sequence[dict[str, Any]]) -> Rows:
        nonlocal understood
        with ThreadPoolExecutor(JUDGED_AT_ONCE) as threads:
            made = list(threads.map(one, chunk))
        understood = understood or any(row["ratings"] for row in made)
        if not understood:
            raise DataError(
                f"the judge {judge.name} at {judge.server.url} was asked about {len(made)} pairs, each in both orders, "
                'and what it says cannot be read: it was to end with four lines, the first "Better: A or B", and '
                f"said, for one: {made[0]['said'][0][:200]!r}. Choose a model that follows instructions."
            )
        return made

    return work
