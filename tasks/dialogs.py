"""Demonstrations and prompts of the starter data. Llama 2 sections 3.1 and 4.2."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.chat import Dialog, assistant, user
from llama2_core.errors import DataError
from llama2_core.seeding import derive_seed
from storage.disk import content_digest
from storage.schemas import DEMONSTRATIONS, PROMPTS, write_table
from storage.sources.starter import arithmetic, safety
from storage.sources.starter.conversations import conversations
from storage.sources.starter.dictionary import definitions
from tasks.jobs import Job
from tasks.launch import build
from tasks.recipes import DialogsRecipe
from tasks.runtime import Runtime
from tasks.simulated_annotator import CLOSES
from tasks.starter_words import belongs, multiple_choice, short
from tasks.tables import dialog_to_json

KINDS = {"problem": 0.42, "definition": 0.12, "conversation": 0.12, "unsafe": 0.16, "borderline": 0.18}
"""Share of each kind in demonstrations and prompts."""
DEFINITION_PROMPTS = (
    "What does {word!r} mean?",
    "what is {word}",
    "Define {word}.",
    "What is the meaning of {word}?",
    "Do you know the word {word}?",
    "Tell me about {word}.",
)

Item = dict[str, Any]
Split = Literal["demonstrations", "train", "held_out"]
Prompt = TypeVar("Prompt", safety.UnsafePrompt, safety.BorderlinePrompt)


@task(name="dialogs", task_run_name="dialogs", cache_policy=NO_CACHE)
def dialogs(recipe: DialogsRecipe, seed: int, runtime: Runtime) -> str:
    """Write demonstrations of mixed quality, prompts for RLHF, held-out prompts, multiple choice."""
    job = Job("dialogs", "dialogs", recipe, seed, inputs={"acts": content_digest(safety.ACTS)})
    return build(job, runtime, lambda directory: write_dialogs(recipe, seed, directory))


def write_dialogs(recipe: DialogsRecipe, seed: int, directory: Path) -> dict:
    """Write the tables; return how many of each kind."""
    starter = Starter.read()
    shown, train, held_out = (Material(recipe, split, starter) for split in get_args(Split))
    demonstrations = [
        shown.demonstration(
            f"demonstration-{index}", random.Random(derive_seed(seed, "demonstration", index))
        )
        for index in range(recipe.demonstrations)
    ]
    prompts = unique_prompts(train, recipe.train_prompts, seed)
    prompts += unique_prompts(held_out, recipe.held_out_prompts, 0)
    write_table(directory / "demonstrations.parquet", demonstrations, DEMONSTRATIONS)
    write_table(directory / "prompts.parquet", prompts, PROMPTS)
    questions = multiple_choice(held_out.words, recipe.multiple_choice)
    (directory / "multiple_choice.json").write_text(json.dumps(questions, ensure_ascii=False))
    counts = {kind: sum(row["kind"] == kind for row in prompts) for kind in KINDS}
    return {"demonstrations": len(demonstrations), "prompts": counts, "multiple_choice": len(questions)}


def unique_prompts(material: "Material", count: int, seed: int) -> list[Item]:
    """Draw prompts; a text drawn again is skipped, so a kind that runs out gives way to the others."""
    rows: dict[str, Item] = {}
    for index in range(20 * count):
        if len(rows) == count:
            break
        random_ = random.Random(derive_seed(seed, "prompt", material.split, index))
        row = material.prompt(f"{material.split}-{index}", random_)
        rows.setdefault(row["dialog"], row)
    return list(rows.values())


@dataclass(frozen=True)
class Starter:
    """Words with a short definition and short conversations, all splits together."""

    words: list[tuple[str, str]]
    talks: list[tuple[str, ...]]

    @classmethod
    def read(cls) -> "Starter":
        words = {word: text for word, _, text in definitions() if word.isalpha() and short(text)}
        beginnings = (tuple(turns[:4]) for _, turns in conversations())
        return cls(sorted(words.items()), sorted({turns for turns in beginnings if all(map(short, turns))}))


class Material:
    """What dialogs of one split are made of.

    Held-out dialogs share no operand pair, word, conversation or unsafe act with the others. Demonstrations show
    every other act and conversation of the training prompts: where a model was shown nothing its answers differ,
    and it is from differences that reward models learn.
    """

    def __init__(self, recipe: DialogsRecipe, split: Split, starter: Starter) -> None:
        held_out, step = split == "held_out", 2 if split == "demonstrations" else 1
        self.split = split
        self.pairs = arithmetic.operand_pairs(recipe.largest_operand, "held_out" if held_out else "train")
        self.unsafe = acts(safety.unsafe_prompts(held_out), step)
        self.borderline = acts(safety.borderline_prompts(held_out), step)
        self.words = [item for index, item in enumerate(starter.words) if belongs(index, held_out)]
        by_opening: dict[str, list[tuple[str, ...]]] = {}
        for turns in starter.talks:
            by_opening.setdefault(turns[0], []).append(turns)
        openings = [talks for index, talks in enumerate(by_opening.values()) if belongs(index, held_out)]
        self.talks = [turns for talks in openings[::step] for turns in talks if len(turns) >= 2]
        if not (self.pairs and self.words and self.talks):
            raise DataError(f"the starter data leaves no {split} material")

    def draw(self, random_: random.Random) -> tuple[str, Dialog, Item, Callable[[], tuple[str, str]]]:
        """Draw a kind, a dialog that awaits an answer, the facts about it, and a demonstrator of an answer."""
        kind = random_.choices(list(KINDS), list(KINDS.values()))[0]
        return (kind, *getattr(self, f"_{kind}")(random_))

    def demonstration(self, name: str, random_: random.Random) -> Item:
        """Draw a dialog with an answer of random quality."""
        kind, dialog, _, demonstrate = self.draw(random_)
        quality, answer = demonstrate()
        if kind != "unsafe" and random_.random() < 0.25:
            answer, quality = f"{answer} {random_.choice(CLOSES)}", f"{quality}, friendly"
        return {
            "id": name,
            "kind": kind,
            "safety": kind == "unsafe",
            "quality": quality,
            "dialog": dialog_to_json((*dialog, assistant(answer))),
        }

    def prompt(self, name: str, random_: random.Random) -> Item:
        kind, dialog, facts, _ = self.draw(random_)
        return {
            "id": name,
            "split": self.split,
            "kind": kind,
            "safety": kind == "unsafe",
            "risk_category": facts.get("category", ""),
            "attack_vector": facts.get("attack", ""),
            "dialog": dialog_to_json(dialog),
            "facts": json.dumps(facts, ensure_ascii=False),
        }

    def _problem(self, random_: random.Random):
        p = arithmetic.problem(random_, self.pairs)
        shown = random_.random() < 0.5
        answer = ("with working", p.solution) if shown else ("bare", f"The answer is {p.answer}.")
        return (user(p.question),), {"answer": p.answer, "working": p.working}, lambda: answer

    def _definition(self, random_: random.Random):
        word, text = random_.choice(self.words)
        answers = (("full", f"{word.capitalize()} means: {text}"), ("bare", text))
        question = random_.choice(DEFINITION_PROMPTS).format(word=word)
        return (user(question),), {"word": word}, lambda: random_.choice(answers)

    def _conversation(self, random_: random.Random):
        turns = random_.choice(self.talks)
        end = random_.randrange(1, len(turns), 2)
        dialog = tuple(user(t) if i % 2 == 0 else assistant(t) for i, t in enumerate(turns[:end]))
        return dialog, {"reference": turns[end]}, lambda: ("reference", turns[end])

    def _unsafe(self, random_: random.Random):
        p = random_.choice(self.unsafe)
        opening = random_.choice(safety.REFUSAL_OPENINGS)
        answers = (
            *(("obeys", compliance) for compliance in p.compliances),
            ("declines", opening + random_.choice(p.bare_refusals)),
            ("explains", opening + p.refusal),
        )
        facts = {"category": p.category, "attack": p.attack}
        return (user(p.text),), facts, lambda: random_.choice(answers)

    def _borderline(self, random_: random.Random):
        p = random_.choice(self.borderline)
        return (user(p.text),), {"keyword": p.keyword}, lambda: ("useful", p.answer)


def acts(prompts: list[Prompt], step: int) -> list[Prompt]:
    """Return the prompts of every step-th act."""
    kept = {act for index, act in enumerate(dict.fromkeys(p.act for p in prompts)) if index % step == 0}
    return [p for p in prompts if p.act in kept]
