"""Constraints, and starter demonstrations of following them in the turn in which they are given."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.chat import Dialog, Message, assistant, user
from llama2_core.rlhf.ghost_attention import Constraint, combine, instruction, on_every_turn, on_first_turn
from llama2_core.seeding import derive_seed
from storage.disk import content_digest
from storage.schemas import DEMONSTRATIONS, write_table
from storage.sources.starter.facts import facts, facts_file
from tasks.ghost_recipe import ConstraintsRecipe, InstructedRecipe
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.runtime import Runtime
from tasks.tables import dialog_to_json, read_constraints, write_constraints

SHAPES = {"plain": 0.3, "instructed": 0.35, "instructed throughout": 0.2, "instructed, two turns": 0.15}
"""Share of each shape of demonstration: no instruction; one, in a single turn; on each of several turns; in the first
of two, which both keep to it. None shows what becomes of an instruction later."""
TURNS = {"instructed": 1, "instructed, two turns": 2}


@task(name="constraints", task_run_name="constraints", cache_policy=NO_CACHE)
def constraints(recipe: ConstraintsRecipe, chat: str, seed: int, runtime: Runtime) -> str:
    """Write down what instructions are about; a chat model is asked only where the recipe says so."""
    if recipe.constraints == "generated":
        return build(Job("constraints", "constraints", recipe, seed, {"chat": chat}), runtime)
    chosen = starter_constraints() if recipe.constraints == "starter" else recipe.constraints

    def work(directory: Path) -> dict[str, Any]:
        return write_constraints(directory, chosen)

    starter = (
        {"starter": content_digest(facts_file("constraints"))} if recipe.constraints == "starter" else {}
    )
    return build(Job("constraints", "constraints", recipe, inputs=starter), runtime, work)


def starter_constraints() -> tuple[Constraint, ...]:
    rows = facts("constraints")
    return tuple(
        Constraint.model_validate({"kind": r["kind"], "value": r["value"], "signs": (r["sign"],)})
        for r in rows
    )


@task(name="instructed dialogs", task_run_name="instructed dialogs", cache_policy=NO_CACHE)
def instructed_dialogs(recipe: InstructedRecipe, constraints: str, seed: int, runtime: Runtime) -> str:
    """Write starter demonstrations of the user's questions, with instructions and without."""
    questions = {"questions": content_digest(facts_file("questions"))}
    parents = {"constraints": constraints}

    def work(directory: Path) -> dict[str, Any]:
        known = read_constraints(find(constraints, runtime).path)
        rows = [
            demonstration(recipe, known, f"instructed-{index}", derive_seed(seed, "instructed", index))
            for index in range(recipe.demonstrations)
        ]
        write_table(directory / "demonstrations.parquet", rows, DEMONSTRATIONS)
        return {shape: sum(row["kind"] == shape for row in rows) for shape in SHAPES}

    return build(Job("instructed dialogs", "lessons", recipe, seed, parents, questions), runtime, work)


def demonstration(
    recipe: InstructedRecipe, known: Sequence[Constraint], name: str, seed: int
) -> dict[str, Any]:
    """Draw one demonstration; held-out combinations of constraints are in none."""
    random_ = random.Random(seed)
    shape = random_.choices(list(SHAPES), list(SHAPES.values()))[0]
    turns = TURNS.get(shape) or random_.randint(1, recipe.longest_turns)
    kept = () if shape == "plain" else combine(known, random_, held_out=False)
    said = instruction(kept, random_.random() < 0.5)
    dialog = talk(random_, turns, kept)
    if shape != "plain":
        dialog = (
            on_every_turn(said, dialog) if shape == "instructed throughout" else on_first_turn(said, dialog)
        )
    return {"id": name, "kind": shape, "safety": False, "quality": "", "dialog": dialog_to_json(dialog)}


def talk(random_: random.Random, turns: int, kept: Sequence[Constraint]) -> Dialog:
    """Draw questions, each once, with answers that keep to the constraints."""
    drawn = random_.sample(facts("questions"), turns)
    messages: list[Message] = []
    for row in drawn:
        messages += [user(row["question"]), assistant(keep_to(kept, row["answer"]))]
    return tuple(messages)


def keep_to(kept: Sequence[Constraint], answer: str) -> str:
    """Return the answer as one who keeps to the constraints says it: "Hola! A star. I like chess. Plato"."""
    signs = {constraint.kind: (constraint.signs or (constraint.value,))[0] for constraint in kept}
    shown = [
        f"{signs['language']}!" if "language" in signs else "",
        answer,
        f"I like {signs['hobby']}." if "hobby" in signs else "",
        f"{signs['figure']}" if "figure" in signs else "",
    ]
    return " ".join(filter(None, shown))
