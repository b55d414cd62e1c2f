"""What defines models set beside each other: prompts, answers, who judges them. No prefect, no torch."""

from typing import Annotated, Literal

from pydantic import Field

from llama2_core.config import NaturalFloat, Positive, Record
from tasks.recipes import JudgeRecipe
from tasks.sampling_recipe import BuiltInRecipe, SamplingRecipe, ServerRecipe

FACTUAL, CREATIVE = ("factual", "problem", "definition"), ("creative", "conversation")


class AskedRecipe(Record):
    """Which prompts are asked."""

    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name -> kinds of prompts that are one kind under it; others are left out. By default all, as they are."""
    most: Positive | None = None
    """Prompts of each kind, drawn; all when left out."""


class RepliesRecipe(Record):
    """One model's answers."""

    temperatures: tuple[NaturalFloat, ...] = (0.1,)
    """Each prompt is answered at each."""
    samples: Positive = 1
    """Answers to a prompt at each temperature."""
    sampling: SamplingRecipe = SamplingRecipe(top_p=0.9)
    """Answers. Llama 2 evaluates chat models at temperature 0.1 and top-p 0.9 (section 4.4)."""
    engine: Annotated[BuiltInRecipe | ServerRecipe, Field(discriminator="kind")] = BuiltInRecipe()
    """Who draws them; a server's address names its model."""


class RewardsRecipe(Record):
    """The reward models: that of safety for safety prompts, that of helpfulness for all others."""

    kind: Literal["rewards"] = "rewards"
    """Reward models."""
    tie_margin: NaturalFloat = 0.0
    """Scores, before the sigmoid, that differ by no more are a tie."""


class RatersRecipe(Record):
    """People, on the annotation page, blind and in random order. Llama 2 section 3.4.2."""

    kind: Literal["people"] = "people"
    """People."""
    raters: Positive = 3
    """For each question. Llama 2: 3."""


class SheetRecipe(Record):
    """Answers as they are judged."""

    models: tuple[str, ...]
    """What the models are called."""
    paired: bool
    """Whether two answers are compared, or each is rated alone."""


class VerdictsRecipe(Record):
    """Who judges a sheet."""

    judge: Annotated[RewardsRecipe | JudgeRecipe | RatersRecipe, Field(discriminator="kind")] = (
        RewardsRecipe()
    )
    """Each pair is judged in both orders."""


class ArenaRecipe(VerdictsRecipe):
    """Two models' answers to the same prompts, compared. Llama 2 sections 3.4.2 and A.3.7."""

    asked: AskedRecipe = AskedRecipe()
    """Prompts."""
    replies: RepliesRecipe = RepliesRecipe()
    """Answers, one a prompt and model."""


class SafetyRatingsRecipe(Record):
    """Answers that people rate by safety from 1 to 5. Llama 2 section 4.4."""

    asked: AskedRecipe = AskedRecipe()
    """Prompts."""
    replies: RepliesRecipe = RepliesRecipe()
    """Answers."""
    judge: RatersRecipe = RatersRecipe()
    """Those who rate; the majority decides what is a violation."""


class DiversityRecipe(Record):
    """How alike samples are by temperature, Self-BLEU. Llama 2 section 5.1, Figure 21."""

    asked: AskedRecipe = AskedRecipe(groups={"factual": FACTUAL, "creative": CREATIVE}, most=10)
    """Prompts. Llama 2: 10 of each kind."""
    replies: RepliesRecipe = RepliesRecipe(
        temperatures=tuple(round(0.1 * tenth, 1) for tenth in range(1, 16)),
        samples=25,
        sampling=SamplingRecipe(),
    )
    """Samples. Llama 2: 25 a prompt, at 0.1 to 1.5."""
