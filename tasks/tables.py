"""Stored tables as what the core works on: dialogs, prompts with tokens, tokenized pairs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama2_core.chat import Dialog, Message, assistant, encode_dialog, encode_prompt
from llama2_core.rlhf.pairs import Pair
from llama2_core.tokenizer import Tokenizer
from storage.schemas import COMPARISONS, DEMONSTRATIONS, DOCUMENTS, PROMPTS, SAMPLES, read_rows, read_table


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


def read_demonstrations(directory: Path) -> list[Dialog]:
    rows = read_table(directory / "demonstrations.parquet", DEMONSTRATIONS)
    return [dialog_from_json(row["dialog"]) for row in rows]


def read_selected_samples(directory: Path) -> list[Dialog]:
    """Return each prompt with its best sample as a dialog to learn."""
    rows = read_table(directory / "samples.parquet", SAMPLES)
    return [(*dialog_from_json(r["dialog"]), assistant(r["response"])) for r in rows if r["selected"]]


def read_prompts(directory: Path, split: str, tokenizer: Tokenizer) -> list[Prompt]:
    """Return the prompts of a split in stored order."""
    prompts = []
    for row in read_table(directory / "prompts.parquet", PROMPTS):
        if row["split"] == split:
            dialog = dialog_from_json(row["dialog"])
            tokens = encode_prompt(dialog, tokenizer)
            facts = json.loads(row["facts"])
            prompts.append(Prompt(row["id"], row["kind"], row["safety"], dialog, facts, tokens))
    return prompts


def encode_answer(prompt: Dialog, answer: str, tokenizer: Tokenizer) -> list[int]:
    tokens, _ = encode_dialog((*prompt, assistant(answer)), tokenizer)
    return tokens


def read_comparisons(
    directories: list[Path], tokenizer: Tokenizer, limit: int
) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """Return train and held-out pairs of all batches by domain, those that fit `limit` tokens.

    Rows whose chosen answer is unsafe while the other is safe are excluded (Llama 2 section 3.2.1).
    """
    train: dict[str, list[Pair]] = {"helpfulness": [], "safety": []}
    held_out: dict[str, list[Pair]] = {"helpfulness": [], "safety": []}
    for directory in directories:
        for row in read_table(directory / "comparisons.parquet", COMPARISONS):
            dialog = dialog_from_json(row["dialog"])
            pair = Pair(
                chosen=encode_answer(dialog, row["chosen"], tokenizer),
                rejected=encode_answer(dialog, row["rejected"], tokenizer),
                grade=row["grade"],
                chosen_safe=row["chosen_safe"],
                rejected_safe=row["rejected_safe"],
            )
            contradicts = row["safety"] and row["rejected_safe"] and not row["chosen_safe"]
            if not contradicts and max(len(pair.chosen), len(pair.rejected)) <= limit:
                rows = held_out if row["held_out"] else train
                rows["safety" if row["safety"] else "helpfulness"].append(pair)
    return train, held_out
