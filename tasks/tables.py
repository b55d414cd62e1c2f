"""Stored tables as what the core works on: dialogs, prompts with tokens, tokenized pairs."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llama2_core.chat import Dialog, Learn, Message, assistant, encode_dialog, encode_prompt
from llama2_core.errors import DataError
from llama2_core.rlhf.ghost_attention import Constraint
from llama2_core.rlhf.pairs import Pair
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from storage.safety_tables import DISTILLED
from storage.schemas import COMPARISONS, DEMONSTRATIONS, DOCUMENTS, GHOST, PROMPTS, SAMPLES, read_rows


@dataclass(frozen=True)
class Prompt:
    """A dialog that awaits an answer, and what the simulated annotator knows about it."""

    id: str
    kind: str
    safety: bool
    dialog: Dialog
    facts: dict[str, Any]
    tokens: list[int]


def dialog_to_json(dialog: Dialog) -> str:
    return json.dumps([message.model_dump() for message in dialog], ensure_ascii=False)


def dialog_from_json(text: str) -> Dialog:
    return tuple(Message(**message) for message in json.loads(text))


def read_texts(corpus: Path) -> Iterator[str]:
    """Yield the texts of a corpus."""
    for path in sorted((corpus / "documents").glob("*.parquet")):
        for row in read_rows(path, DOCUMENTS):
            yield row["text"]


class Lesson(NamedTuple):
    """A dialog to be learned from, and which of its answers are."""

    id: str
    dialog: Dialog
    learn: Learn = "all"


def read_lessons(parents: Mapping[str, Path]) -> Iterator[Lesson]:
    """Yield what fine-tuning learns: prompts with their best samples ("samples"), kept distilled answers
    ("distilled"), demonstrations (roles that begin with "dialogs"), dialogs of Ghost Attention ("ghost")."""
    if "samples" in parents:
        for row in read_rows(parents["samples"] / "samples.parquet", SAMPLES):
            if row["selected"]:
                dialog = (*dialog_from_json(row["dialog"]), assistant(row["response"]))
                yield Lesson(row["prompt_id"], dialog)
    if "distilled" in parents:
        for row in read_rows(parents["distilled"] / "distilled.parquet", DISTILLED):
            if row["kept"]:
                dialog = (*dialog_from_json(row["dialog"]), assistant(row["response"]))
                yield Lesson(row["prompt_id"], dialog)
    for role in sorted(role for role in parents if role.startswith("dialogs")):
        for row in read_rows(parents[role] / "demonstrations.parquet", DEMONSTRATIONS):
            yield Lesson(row["id"], dialog_from_json(row["dialog"]))
    if "ghost" in parents:
        for row in read_rows(parents["ghost"] / "ghost.parquet", GHOST):
            yield Lesson(row["id"], dialog_from_json(row["dialog"]), "last")


def write_constraints(directory: Path, chosen: Sequence[Constraint]) -> dict[str, Any]:
    """Write constraints.json; return how many there are of each kind."""
    (directory / "constraints.json").write_text(
        json.dumps([c.model_dump() for c in chosen], ensure_ascii=False)
    )
    kinds = [constraint.kind for constraint in chosen]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def read_constraints(directory: Path) -> tuple[Constraint, ...]:
    rows = json.loads((directory / "constraints.json").read_text())
    return tuple(Constraint.model_validate(row) for row in rows)


def read_prompt_rows(directory: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the prompts of a split in stored order, as rows."""
    return (row for row in read_rows(directory / "prompts.parquet", PROMPTS) if row["split"] == split)


def read_prompts(directory: Path, split: str, tokenizer: Tokenizer | None) -> list[Prompt]:
    """Return the prompts of a split in stored order, without tokens where there is no tokenizer.

    Raises DataError naming the prompt that the chat template cannot hold.
    """
    prompts = []
    for row in read_prompt_rows(directory, split):
        dialog = dialog_from_json(row["dialog"])
        try:
            tokens = encode_prompt(dialog, tokenizer) if tokenizer else []
        except DataError as error:
            raise DataError(f"prompt {row['id']}: {error}") from error
        facts = json.loads(row["facts"])
        prompts.append(Prompt(row["id"], row["kind"], row["safety"], dialog, facts, tokens))
    return prompts


def encode_answer(prompt: Dialog, answer: str, tokenizer: Tokenizer) -> list[int]:
    tokens, _ = encode_dialog((*prompt, assistant(answer)), tokenizer)
    return tokens


def read_comparison_rows(directories: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of all batches that reward models learn from.

    Rows whose chosen answer is unsafe while the other is safe are excluded (Llama 2 section 3.2.1).
    """
    for directory in directories:
        for row in read_rows(directory / "comparisons.parquet", COMPARISONS):
            if not (row["safety"] and row["rejected_safe"] and not row["chosen_safe"]):
                yield row


def held_out_draw(seed: int, prompt: str) -> float:
    """Return a number in [0, 1): below a share, comparisons of this prompt test the reward models, in every batch."""
    return random.Random(derive_seed(seed, "held out", prompt)).random()


def measure(dialog: Dialog, chosen: str, rejected: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a comparison's columns of lengths, in tokens."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    asked = [count(message.content) for message in dialog if message.role == "user"]
    return {
        "turns": len(asked),
        "unit": f"tokens of {tokenizer.digest[:12]}",
        "prompt_length": sum(asked),
        "dialog_length": sum(count(message.content) for message in dialog),
        "chosen_length": count(chosen),
        "rejected_length": count(rejected),
    }


def encode_pair(row: Mapping[str, Any], tokenizer: Tokenizer) -> Pair:
    dialog = dialog_from_json(row["dialog"])
    return Pair(
        chosen=encode_answer(dialog, row["chosen"], tokenizer),
        rejected=encode_answer(dialog, row["rejected"], tokenizer),
        grade=row["grade"] or "negligibly better",  # no margin where no grade is known
        chosen_safe=row["chosen_safe"],
        rejected_safe=row["rejected_safe"],
        prompt_tokens=len(encode_prompt(dialog, tokenizer)),
    )


def read_comparisons(
    directories: list[Path], tokenizer: Tokenizer, limit: int
) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """Return train and held-out pairs of all batches by domain, those that fit `limit` tokens."""
    train: dict[str, list[Pair]] = {"helpfulness": [], "safety": []}
    held_out: dict[str, list[Pair]] = {"helpfulness": [], "safety": []}
    for row in read_comparison_rows(directories):
        pair = encode_pair(row, tokenizer)
        if max(len(pair.chosen), len(pair.rejected)) <= limit:
            rows = held_out if row["held_out"] else train
            rows["safety" if row["safety"] else "helpfulness"].append(pair)
    return train, held_out
