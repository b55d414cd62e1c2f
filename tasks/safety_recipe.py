"""What defines the safety stages' results. No prefect, no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llama2_core.config import Positive, PositiveFloat, Record, Share
from llama2_core.rlhf.context_distillation import Preprompts
from tasks.recipes import SamplingRecipe

STARTER_PREPROMPTS = Preprompts(
    adjectives=("responsible", "respectful", "wise", "honest", "careful", "kind"),
    generic=("You are a {first} and {second} assistant.", "Be {first} and {second}."),
    tailored="This is {category}. Danger first, decline, say why and what else, ask.",
)
"""Short: the laptop profile's context is 128 tokens. `Preprompts()` has those for a model that can read."""
Style = Literal["generic", "tailored"]


class SafetyPromptsRecipe(Record):
    """Prompts of a public set, for sampling and evaluation."""

    format: Literal["do-not-answer", "toxigen", "bold"] = "do-not-answer"
    """Of the files."""
    held_out_share: Share = 0.2
    """Of the prompts, drawn by their text: for evaluation alone."""


class SafetyShareRecipe(Record):
    """Demonstrations with a part of the safety data. Llama 2 section 4.2.3."""

    share: Share = 1.0
    """Of the safe answers to adversarial prompts; a smaller share is a part of every larger one."""

    @property
    def percent(self) -> str:
        return f"{100 * self.share:g}"


class PrepromptedRecipe(Record):
    """Demonstrations in which safe answers follow a preprompt, beside those that are there: starter data."""

    demonstrations: Positive = 2000
    """How many more."""
    unsafe_share: Share = 0.5
    """Answers to adversarial prompts among these; the others are useful answers behind a generic preprompt."""
    largest_operand: Positive = 10
    """As in the tokens."""
    preprompts: Preprompts = STARTER_PREPROMPTS
    """Those that are used later."""


class ContextDistillationRecipe(Record):
    """Answers behind safety preprompts, kept where the safety reward model prefers them. Llama 2 section 4.2.4."""

    style: Style = "tailored"
    """Generic adjectives, or the prompt's risk category and the steps of an answer; generic where none is known."""
    preprompts: Preprompts = STARTER_PREPROMPTS
    """Templates."""
    prompts: Positive = 600
    """Most adversarial prompts of the training split."""
    temperature: PositiveFloat = 0.8
    """Of both answers. Not published."""
    sampling: SamplingRecipe = SamplingRecipe(max_new_tokens=56)
    """Answers."""


class SafetyScalingRecipe(Record):
    """How much safety data makes a model how safe, and how ready to refuse. Llama 2 section 4.2.3."""

    shares: Annotated[tuple[Share, ...], Field(min_length=2)] = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
    """Of the safety demonstrations; those of helpfulness are always all there. Llama 2's."""

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"shares is {self.shares}, expected each larger than the one before")
        return self
