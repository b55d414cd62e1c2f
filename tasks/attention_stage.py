"""What the worker does to draw Llama 2 Figure 10: what answers attend to, without and with Ghost Attention."""

import json
from collections.abc import Sequence
from typing import Any, cast

import torch

from llama2_core.attention_maps import binned, strongest_attention
from llama2_core.chat import B_INST, Dialog, encode_dialog
from llama2_core.data.loss_masks import turns
from llama2_core.rlhf.ghost_attention import Constraint, on_first_turn
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import load_policy
from storage.disk import atomic_write
from storage.schemas import RETENTION, read_table
from tasks.ghost_recipe import AttentionRecipe
from tasks.stage import Stage
from tasks.talks import Talk


def attention(stage: Stage) -> dict:
    """Have both models read the same dialogs, told once, and find what their answers attend to. Llama 2 Figure 10."""
    recipe = AttentionRecipe.model_validate(stage.recipe)
    models = {role: load_policy(stage.parents[role]) for role in ("without", "with")}
    tokenizer = models["with"][1]
    dialogs = _told_once(
        read_table(stage.parents["retention"] / "retention.parquet", RETENTION), recipe.dialogs
    )
    curves: dict[str, list[list[float]]] = {role: [] for role in models}
    maps: dict[str, list[list[float]]] = {}
    for said, dialog in dialogs:
        tokens, places, span = answer_places(said, dialog, tokenizer)
        for role, (model, _) in models.items():
            strongest = strongest_attention(model, tokens)
            curves[role].append([float(strongest[at, span].max()) for at in places])
            maps.setdefault(role, cast(list, binned(strongest, recipe.bin_tokens).tolist()))
    means = {role: torch.tensor(of).mean(0).tolist() for role, of in curves.items()}
    atomic_write(stage.directory / "attention.json", json.dumps({"turns": means, "maps": maps}).encode())
    return {role: {f"turn {turn}": at for turn, at in enumerate(of, 1)} for role, of in means.items()}


def _told_once(rows: Sequence[dict[str, Any]], most: int) -> list[tuple[str, Dialog]]:
    """Return instruction and dialog of the longest of the held talks, in their order."""
    talks: dict[int, Talk] = {}
    for row in rows:
        pairs = [name.split("/", 1) for name in row["constraints"]]
        about = tuple(Constraint.model_validate({"kind": kind, "value": value}) for kind, value in pairs)
        talk = talks.setdefault(row["dialog"], Talk(row["dialog"], about, []))
        talk.asked.append(row["asked"])
        talk.answers.append(row["response"])
    longest = max(len(talk.asked) for talk in talks.values())
    chosen = [talk for talk in talks.values() if len(talk.asked) == longest][:most]
    return [(t.instruction, on_first_turn(t.instruction, t.messages(longest))) for t in chosen]


def answer_places(
    said: str, dialog: Dialog, tokenizer: Tokenizer
) -> tuple[list[int], list[list[int]], slice]:
    """Return the tokens of a dialog, the places from which each answer is predicted, and where the instruction is."""
    tokens, learned = encode_dialog(dialog, tokenizer)
    places = [
        [turn.place + at - 1 for at, is_answer in enumerate(turn.learned) if is_answer]
        for turn in turns(tokens, learned, tokenizer)
    ]
    begin, end = (len(tokenizer.encode(text, bos=True)) for text in (B_INST, f"{B_INST} {said}"))
    return tokens, places, slice(begin, end)
