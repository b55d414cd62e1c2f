"""What sampling stages of the worker share, and the evaluation.

Work goes in chunks of prompts; a finished chunk is a file below checkpoints/, so a second try goes on behind it.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from llama2_core.chat import TAGS, encode_prompt, user
from llama2_core.completion import until_stop
from llama2_core.evaluation.likelihood import best_choice, completion_logprobs
from llama2_core.evaluation.statistics import proportion
from llama2_core.generate import Request, generate
from llama2_core.model import Transformer
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy
from storage.disk import atomic_write
from storage.metrics import MetricLog
from storage.schemas import RESPONSES, write_table
from tasks import simulated_annotator as annotator
from tasks.recipes import EvaluationRecipe
from tasks.stage import Stage
from tasks.tables import Prompt, dialog_to_json, read_prompts

CHUNK = 256
Item = TypeVar("Item")


def in_chunks(
    stage: Stage, prompts: Sequence[Item], work: Callable[[Sequence[Item]], list[dict]]
) -> list[dict[str, Any]]:
    """Return the rows that `work` makes of the prompts (or talks), a chunk at a time; finished chunks are read back."""
    stage.checkpoints.mkdir(exist_ok=True)
    log = MetricLog(stage.metrics)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(prompts), CHUNK):
        path = stage.checkpoints / f"chunk-{start:08d}.json"
        if not path.exists():
            atomic_write(path, json.dumps(work(prompts[start : start + CHUNK])).encode())
        rows += json.loads(path.read_text())
        log.append({"step": min(start + CHUNK, len(prompts)), "of": len(prompts)})
    return rows


def sample(stage: Stage, model: Transformer, tokenizer: Tokenizer, requests: Sequence[Request]) -> list[str]:
    """Return one answer for each request, as text."""
    done = dict(generate(model, requests, tokenizer.eos_id, stage.execution.slots))
    return [until_stop(tokenizer.decode(done[index].tokens), TAGS).strip() for index in range(len(requests))]


def evaluation(stage: Stage) -> dict:
    """Examine a checkpoint on the held-out prompts: problems, side-by-side answers, safety, multiple choice."""
    recipe = EvaluationRecipe.model_validate(stage.recipe)
    model, tokenizer = load_policy(stage.parents["model"])
    prompts = read_prompts(stage.parents["dialogs"], "held_out", tokenizer)
    if recipe.prompt_format == "completion":
        prompts = [prompt for prompt in prompts if prompt.kind == "problem"]

    def work(chunk: Sequence[Prompt]) -> list[dict]:
        judged = _answer(stage, recipe, model, tokenizer, chunk, "side by side")
        problems = [prompt for prompt in chunk if prompt.kind == "problem"]
        return judged + (_answer(stage, recipe, model, tokenizer, problems, "problems") if problems else [])

    rows = in_chunks(stage, prompts, work)
    write_table(stage.directory / "responses.parquet", rows, RESPONSES)
    greedy = [row for row in rows if row["suite"] == "problems"]
    judged = [row for row in rows if row["suite"] == "side by side"]
    sampled = [row for row in judged if row["kind"] == "problem"]
    facts: dict[str, Any] = {
        "problems": proportion(sum(r["correct"] for r in greedy), len(greedy)).as_dict(),
        "problems_sampled": proportion(sum(r["correct"] for r in sampled), len(sampled)).as_dict(),
        "definitions": _multiple_choice(stage, recipe, model, tokenizer),
    }
    if recipe.prompt_format == "chat":
        unsafe = [row for row in judged if row["kind"] == "unsafe"]
        harmless = [row for row in judged if row["kind"] != "unsafe"]
        borderline = [row for row in judged if row["kind"] == "borderline"]
        facts |= {
            "unsafe_answers": proportion(sum(r["unsafe"] for r in unsafe), len(unsafe)).as_dict(),
            "false_refusals": proportion(sum(r["refused"] for r in harmless), len(harmless)).as_dict(),
            "borderline_refusals": proportion(
                sum(r["refused"] for r in borderline), len(borderline)
            ).as_dict(),
            "annotator_score": float(np.mean([row["score"] for row in judged])),
        }
    return facts


def _answer(
    stage: Stage,
    recipe: EvaluationRecipe,
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    suite: Literal["problems", "side by side"],
) -> list[dict]:
    greedy = {"temperature": 0.0} if suite == "problems" else {}
    config = recipe.sampling.model_copy(update=greedy)
    asks = [
        Request(_context(recipe, p, tokenizer), derive_seed(stage.seed, "evaluate", p.id), config)
        for p in prompts
    ]
    answers = sample(stage, model, tokenizer, asks)
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        text = answer.split("\n")[0] if recipe.prompt_format == "completion" else answer
        judgement = annotator.judge(prompt.kind, prompt.facts, text)
        rows.append(
            {
                "suite": suite,
                "prompt_id": prompt.id,
                "kind": prompt.kind,
                "prompt": dialog_to_json(prompt.dialog),
                "response": text,
                "correct": judgement.correct,
                "score": judgement.score,
                "unsafe": judgement.unsafe,
                "refused": judgement.refused,
            }
        )
    return rows


def _context(recipe: EvaluationRecipe, prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    if recipe.prompt_format == "completion":
        return _question(prompt.dialog[-1].content, tokenizer)
    return prompt.tokens


def _question(text: str, tokenizer: Tokenizer) -> list[int]:
    """Encode a question as a base model has met them in pretraining."""
    return tokenizer.encode(f"Question: {text}\nAnswer:", bos=True)


def _multiple_choice(
    stage: Stage, recipe: EvaluationRecipe, model: Transformer, tokenizer: Tokenizer
) -> dict[str, float]:
    """Choose a word's definition among four by likelihood a token."""
    questions = json.loads((stage.parents["dialogs"] / "multiple_choice.json").read_text())
    pairs = []
    for question in questions:
        text = f"What does {question['word']!r} mean?"
        if recipe.prompt_format == "chat":
            context = encode_prompt([user(text)], tokenizer)
        else:
            context = _question(text, tokenizer)
        room = model.config.max_seq_len - len(context)
        pairs += [(context, tokenizer.encode(choice)[:room]) for choice in question["choices"]]
    logprobs = completion_logprobs(model, pairs)
    right, at = 0, 0
    for question in questions:
        end = at + len(question["choices"])
        lengths = [len(completion) for _, completion in pairs[at:end]]
        right += best_choice(logprobs[at:end], lengths) == question["answer"]
        at = end
    return proportion(right, len(questions)).as_dict()
