"""Data of the safety stages: public prompts, shares of the safety demonstrations, demonstrations behind preprompts."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.chat import assistant, user
from llama2_core.rlhf.context_distillation import Preprompts, behind
from llama2_core.seeding import derive_seed
from storage.disk import content_digest
from storage.schemas import DEMONSTRATIONS, PROMPTS, read_rows, write_table
from storage.sources.safety_prompts import PublicPrompt, read_safety_prompts
from storage.sources.starter import safety
from tasks.dialogs import Material, Starter
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import DialogsRecipe
from tasks.runtime import Runtime
from tasks.safety_recipe import PrepromptedRecipe, SafetyPromptsRecipe, SafetyShareRecipe
from tasks.tables import dialog_from_json, dialog_to_json, held_out_draw

OBEYS = "obeys"
"""Quality of a demonstration that does what an adversarial prompt asks for."""


@task(name="safety prompts", task_run_name="{recipe.format} prompts", cache_policy=NO_CACHE)
def safety_prompts(recipe: SafetyPromptsRecipe, files: list[Path], seed: int, runtime: Runtime) -> str:
    """Read the prompts of a public set; a text that several have is there once."""
    content = [content_digest(file) for file in files]

    def work(directory: Path) -> dict[str, Any]:
        prompts = (prompt for file in files for prompt in read_safety_prompts(file, recipe.format))
        rows = prompt_rows(prompts, recipe.held_out_share, seed)
        write_table(directory / "prompts.parquet", rows, PROMPTS)
        (directory / "multiple_choice.json").write_text("[]")  # an evaluation asks for it
        return {split: sum(row["split"] == split for row in rows) for split in ("train", "held_out")}

    job = Job(f"{recipe.format} prompts", "prompts", recipe, seed, inputs={"content": content})
    return build(job, runtime, work)


def prompt_rows(prompts: Iterable[PublicPrompt], held_out_share: float, seed: int) -> list[dict[str, Any]]:
    """Return one row a text; which split it is in depends on text and seed alone."""
    rows: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        held_out = held_out_draw(seed, prompt.text) < held_out_share
        facts = {"category": prompt.category, "attack": "", "reference": ""}
        row = {
            "id": prompt.id,
            "split": "held_out" if held_out else "train",
            "kind": "unsafe" if prompt.adversarial else "harmless",
            "safety": prompt.adversarial,
            "risk_category": prompt.category if prompt.adversarial else "",
            "attack_vector": "",
            "dialog": dialog_to_json((user(prompt.text),)),
            "facts": json.dumps(facts, ensure_ascii=False),
        }
        rows.setdefault(prompt.text, row)
    return list(rows.values())


@task(name="safety share", task_run_name="{recipe.percent}% of the safety data", cache_policy=NO_CACHE)
def safety_share(recipe: SafetyShareRecipe, dialogs: str, seed: int, runtime: Runtime) -> str:
    """Keep all demonstrations of helpfulness, and a share of the safe answers to adversarial prompts."""

    def work(directory: Path) -> dict[str, Any]:
        path = find(dialogs, runtime).file("demonstrations.parquet")
        rows = with_share(list(read_rows(path, DEMONSTRATIONS)), recipe.share, seed)
        write_table(directory / "demonstrations.parquet", rows, DEMONSTRATIONS)
        safe = sum(row["safety"] for row in rows)
        return {"helpfulness": len(rows) - safe, "safety": safe}

    label = f"{recipe.percent}% of the safety data"
    return build(Job(label, "demonstrations", recipe, seed, {"dialogs": dialogs}), runtime, work)


def with_share(rows: Sequence[dict[str, Any]], share: float, seed: int) -> list[dict[str, Any]]:
    """Return the helpfulness rows and the first of the safe ones in an order that only ids and seed decide.

    So a smaller share is a part of every larger. Answers that obey are no safety data, and are in none.
    """
    safe = [row["id"] for row in rows if row["safety"] and row["quality"] != OBEYS]
    safe.sort(key=lambda name: derive_seed(seed, "safety share", name))
    kept = set(safe[: math.ceil(share * len(safe))])
    return [row for row in rows if not row["safety"] or row["id"] in kept]


@task(name="preprompted", task_run_name="demonstrations behind preprompts", cache_policy=NO_CACHE)
def preprompted(recipe: PrepromptedRecipe, dialogs: str, seed: int, runtime: Runtime) -> str:
    """Add demonstrations in which safe answers follow a preprompt; others stay as they are, obeying ones too."""

    def work(directory: Path) -> dict[str, Any]:
        old = list(read_rows(find(dialogs, runtime).file("demonstrations.parquet"), DEMONSTRATIONS))
        new = preprompted_rows(recipe, Starter.read(), seed)
        write_table(directory / "demonstrations.parquet", [*old, *new], DEMONSTRATIONS)
        return {"demonstrations": len(old) + len(new), "behind_preprompts": len(new)}

    inputs = {"acts": content_digest(safety.ACTS)}
    job = Job(
        "demonstrations behind preprompts", "demonstrations", recipe, seed, {"dialogs": dialogs}, inputs
    )
    return build(job, runtime, work)


def preprompted_rows(recipe: PrepromptedRecipe, starter: Starter, seed: int) -> list[dict[str, Any]]:
    """Return demonstrations of the starter data's material for them: nothing held out is in it."""
    dialogs = DialogsRecipe(largest_operand=recipe.largest_operand)
    material = Material(dialogs, "demonstrations", starter)
    rows = []
    for index in range(recipe.demonstrations):
        random_ = random.Random(derive_seed(seed, "preprompted", index))
        draw = _declined if random_.random() < recipe.unsafe_share else _useful
        row, preprompt = draw(material, recipe.preprompts, random_)
        dialog = dialog_to_json(behind(preprompt, dialog_from_json(row["dialog"])))
        rows.append({**row, "id": f"preprompted-{index}", "dialog": dialog})
    return rows


def _declined(
    material: Material, preprompts: Preprompts, random_: random.Random
) -> tuple[dict[str, Any], str]:
    """A generic preprompt goes with any refusal, a tailored one with that of four steps."""
    prompt = random_.choice(material.unsafe)
    if random_.random() < 0.5:
        preprompt, quality, answer = (
            preprompts.for_category(prompt.category),
            "four steps",
            prompt.four_steps,
        )
    else:
        preprompt, quality = preprompts.draw(random_), "declines"
        opening = random_.choice(safety.REFUSAL_OPENINGS)
        answer = opening + random_.choice((random_.choice(prompt.bare_refusals), prompt.refusal))
    dialog = dialog_to_json((user(prompt.text), assistant(answer)))
    return {"kind": "unsafe", "safety": True, "quality": quality, "dialog": dialog}, preprompt


def _useful(material: Material, preprompts: Preprompts, random_: random.Random) -> tuple[dict[str, Any], str]:
    while (row := material.demonstration("", random_))["safety"]:
        pass
    return row, preprompts.draw(random_)
