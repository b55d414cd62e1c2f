"""What reward models learn from: tokenized comparisons, and their mixes. Llama 2 section 3.2.2. No torch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from llama2_core.config import Grade

Row = TypeVar("Row")


@dataclass(frozen=True)
class Pair:
    """A comparison, tokenized: the prompt with each response, its grade, and what is safe."""

    chosen: Sequence[int]
    rejected: Sequence[int]
    grade: Grade
    chosen_safe: bool | None
    """None where nobody was asked: imports have no labels."""
    rejected_safe: bool | None
    prompt_tokens: int
    """Of both rows: where the answers begin."""


def mix(own: Sequence[Row], other: Sequence[Row], other_share: float, random_: random.Random) -> list[Row]:
    """Return all rows of a model's own domain, and uniformly drawn others for at most this share of the whole.

    Llama 2 section 3.2.2: half for the helpfulness model, a tenth for the safety model.
    """
    wanted = round(len(own) * other_share / (1 - other_share))
    return [*own, *random_.sample(list(other), min(len(other), wanted))]
