"""What the worker does for Ghost Attention: it holds dialogs turn by turn. Llama 2 section 3.3."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llama2_core.chat import encode_prompt, user
from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.evaluation.statistics import proportion
from llama2_core.generate import Request
from llama2_core.rlhf.ghost_attention import (
    Constraint,
    Kind,
    instruction,
    listed,
    on_every_turn,
    on_first_turn,
)
from llama2_core.seeding import derive_seed
from llama2_core.training.checkpoint import load_policy
from storage.schemas import GHOST, RETENTION, write_table
from tasks.chat_server import ChatServer
from tasks.ghost_recipe import ConstraintsRecipe, GhostRecipe, RetentionRecipe
from tasks.recipes import JudgeRecipe
from tasks.sampling_stages import in_chunks, sample
from tasks.stage import Stage
from tasks.tables import dialog_to_json, write_constraints
from tasks.talks import Talk, hold, plan_talks, speaker

LISTS: dict[Kind, str] = {
    "hobby": "List {n} hobbies, such as chess. One on each line, nothing else.",
    "figure": "List {n} famous public figures. One on each line, nothing else.",
}
LANGUAGES = {
    "French": "fr",
    "German": "de",
    "Spanish": "es",
    "Italian": "it",
    "Dutch": "nl",
    "Portuguese": "pt",
}
QUESTION = """\
An assistant was told: {instruction}

It answers:
{answer}
[End of the answer]

Does the answer keep to what it was told? Reply with one word, yes or no."""
JUDGING = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8)


def constraints(stage: Stage) -> dict:
    """Have the chat model name hobbies and figures; languages are ours."""
    recipe = ConstraintsRecipe.model_validate(stage.recipe)
    model, tokenizer = load_policy(stage.parents["chat"])
    asks = [
        Request(
            encode_prompt([user(question.format(n=recipe.generated))], tokenizer),
            derive_seed(stage.seed, "constraints", kind),
            recipe.sampling,
        )
        for kind, question in LISTS.items()
    ]
    answers = dict(zip(LISTS, sample(stage, model, tokenizer, asks), strict=True))
    found = named_by(answers, recipe.generated)
    return write_constraints(stage.directory, found)


def named_by(answers: Mapping[Kind, str], most: int) -> list[Constraint]:
    """Return languages, and the constraints that a chat model lists. Raises DataError quoting what is no list."""
    found = [Constraint(kind="language", value=name, language=code) for name, code in LANGUAGES.items()]
    for kind, answer in answers.items():
        values = listed(answer)[:most]
        if len(values) < 2:
            raise DataError(
                f"asked to list {most} of {kind}, the chat model said {answer[:200]!r}: list constraints in the recipe "
                "instead"
            )
        found += [Constraint(kind=kind, value=value) for value in values]
    return found


def ghost(stage: Stage) -> dict:
    """Sample dialogs with the instruction on every turn; write them with it in the first turn only."""
    recipe = GhostRecipe.model_validate(stage.recipe)
    answer = speaker(stage, *load_policy(stage.parents["chat"]), recipe.sampling)

    def turns_of(random_: random.Random) -> int:
        return random_.randint(recipe.least_turns, recipe.most_turns)

    def work(chunk: Sequence[Talk]) -> list[dict]:
        hold(chunk, on_every_turn, answer)
        return [_lesson(stage, recipe, talk) for talk in chunk if len(talk.answers) >= recipe.least_turns]

    talks = plan_talks(stage, "ghost", recipe.dialogs, turns_of, held_out=False)
    rows = in_chunks(stage, talks, work)
    if not rows:
        raise DataError(
            f"no dialog of {recipe.least_turns} turns fits the context: lengthen it (start.context)"
        )
    write_table(stage.directory / "ghost.parquet", rows, GHOST)
    return {
        "dialogs": len(rows),
        "left_out": len(talks) - len(rows),
        "turns": sum(row["turns"] for row in rows) / len(rows),
        "shortened": sum(row["shortened"] for row in rows),
        "obeyed": proportion(sum(row["obeyed"] for row in rows), len(rows)).as_dict(),
    }


def _lesson(stage: Stage, recipe: GhostRecipe, talk: Talk) -> dict[str, Any]:
    shortened = (
        random.Random(derive_seed(stage.seed, "shorten", talk.index)).random() < recipe.shortened_share
    )
    said = instruction(talk.constraints, shortened)
    turns = len(talk.answers)
    return {
        "id": f"ghost-{talk.index}",
        "constraints": named(talk.constraints),
        "shortened": shortened,
        "turns": turns,
        "obeyed": len(kept(talk.constraints, talk.answers[-1], None)) == len(talk.constraints),
        "dialog": dialog_to_json(on_first_turn(said, talk.messages(turns))),
    }


def retention(stage: Stage) -> dict:
    """Hold dialogs of held-out combinations, told once or on every turn, and look at which turns they are kept."""
    recipe = RetentionRecipe.model_validate(stage.recipe)
    answer = speaker(stage, *load_policy(stage.parents["model"]), recipe.sampling)
    instruct = on_every_turn if recipe.every_turn else on_first_turn

    def work(chunk: Sequence[Talk]) -> list[dict]:
        hold(chunk, instruct, answer)
        return [
            kept_row(talk, turn, recipe.judge) for talk in chunk for turn in range(1, len(talk.answers) + 1)
        ]

    talks = plan_talks(stage, "retention", recipe.dialogs, lambda _: max(recipe.turns), held_out=True)
    rows = in_chunks(stage, talks, work)
    write_table(stage.directory / "retention.parquet", rows, RETENTION)
    return by_turn(rows, sorted({1, *recipe.turns}))


def by_turn(rows: Sequence[dict[str, Any]], turns: Sequence[int]) -> dict[str, Any]:
    """Return the share of answers that keep to all of their constraints at each turn, and to those of each kind."""
    at = {turn: [row for row in rows if row["turn"] == turn] for turn in turns}
    return {
        **{f"turn {turn}": _share([row["obeyed"] for row in found]) for turn, found in at.items()},
        "by_kind": {f"turn {turn}": _by_kind(found) for turn, found in at.items()},
    }


def kept_row(talk: Talk, turn: int, judge: JudgeRecipe | None) -> dict[str, Any]:
    answer = talk.answers[turn - 1]
    found = kept(talk.constraints, answer, judge)
    return {
        "dialog": talk.index,
        "turn": turn,
        "constraints": named(talk.constraints),
        "kept": named(found),
        "obeyed": len(found) == len(talk.constraints),
        "asked": talk.asked[turn - 1],
        "response": answer,
    }


def _share(hits: Sequence[bool]) -> dict[str, float]:
    return proportion(sum(hits), len(hits)).as_dict()


def _by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    hits: dict[str, list[bool]] = {}
    for row in rows:
        for name in row["constraints"]:
            hits.setdefault(name.partition("/")[0], []).append(name in row["kept"])
    return {kind: _share(found) for kind, found in sorted(hits.items())}


def kept(constraints: Sequence[Constraint], answer: str, judge: JudgeRecipe | None) -> list[Constraint]:
    """Return the constraints that an answer keeps to: as a judge says, or by their signs."""
    return [constraint for constraint in constraints if _is_kept(constraint, answer, judge)]


def _is_kept(constraint: Constraint, answer: str, judge: JudgeRecipe | None) -> bool:
    if judge:
        question = QUESTION.format(instruction=instruction([constraint]), answer=answer)
        reply = ChatServer.parse(judge.server).answer([user(question)], JUDGING, seed=0)
        return reply.strip().lower().startswith("yes")
    if constraint.language:
        from tasks.language import identify  # noqa: PLC0415  (its model is loaded only where it is needed)

        return identify(answer)[0] == constraint.language
    return constraint.shown_in(answer)


def named(constraints: Sequence[Constraint]) -> list[str]:
    return [f"{constraint.kind}/{constraint.value}" for constraint in constraints]
