"""What defines Ghost Attention and the perception of time. Llama 2 section 3.3. No prefect, no torch."""

from datetime import date
from typing import Literal, Self

from pydantic import model_validator

from llama2_core.config import Positive, Record, SamplingConfig, Share
from llama2_core.rlhf.ghost_attention import Constraint
from tasks.adapt_recipe import StartRecipe
from tasks.recipes import FineTuneRecipe, JudgeRecipe


class ConstraintsRecipe(Record):
    """What instructions are about."""

    constraints: tuple[Constraint, ...] | Literal["starter", "generated"] = "generated"
    """Listed here; those of the starter data; or named by the chat model itself, as in Llama 2."""
    generated: Positive = 30
    """Hobbies, and figures, asked of the chat model."""
    sampling: SamplingConfig = SamplingConfig()
    """Of its answer."""


class InstructedRecipe(Record):
    """Starter demonstrations from which a small model learns to follow instructions at all."""

    demonstrations: Positive = 1500
    """Dialogs of one or several turns, with instructions and without."""
    longest_turns: Positive = 4
    """Of dialogs without instructions, and of those with one on every turn."""


class GhostRecipe(Record):
    """Dialogs sampled with the instruction on every turn, kept for training with it in the first."""

    dialogs: Positive = 2000
    """How many. Not published."""
    least_turns: Positive = 2
    """Of a dialog, at least."""
    most_turns: Positive = 20
    """Of a dialog, at most; fewer where the context ends."""
    shortened_share: Share = 0.5
    """Dialogs whose instruction is shortened for training. Llama 2: half."""
    sampling: SamplingConfig = SamplingConfig()
    """Answers."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least_turns > self.most_turns:
            raise ValueError(f"least_turns {self.least_turns} is more than most_turns {self.most_turns}")
        return self


class RetentionRecipe(Record):
    """Whether a model still keeps to an instruction, turns after it was given."""

    turns: tuple[Positive, ...] = (2, 4, 6, 20)
    """Turns reported. Llama 2: 2, 4, 6 and 20."""
    dialogs: Positive = 200
    """Dialogs held with the model, of held-out combinations and questions."""
    every_turn: bool = False
    """Repeat the instruction on every turn: the most that can be expected."""
    sampling: SamplingConfig = SamplingConfig()
    """Answers."""
    judge: JudgeRecipe | None = None
    """A language model that says whether an answer keeps to its constraints; without one, their signs do."""


class AttentionRecipe(Record):
    """What models attend to. Llama 2 Figure 10."""

    dialogs: Positive = 20
    """Held dialogs that both models read; the first of them is drawn."""
    bin_tokens: Positive = 4
    """Neighbouring tokens of a bin of the drawing, of which the largest attention is shown."""


class GhostAttentionRecipe(Record):
    """Ghost Attention, from a model to one that remembers what it was told first."""

    start: StartRecipe = StartRecipe()
    """A longer context, if the model's is too short."""
    constraints: ConstraintsRecipe = ConstraintsRecipe()
    """What instructions are about."""
    instructed: InstructedRecipe | None = None
    """Starter demonstrations to begin with; they supply the user's turns then."""
    ordinary: bool = True
    """Learn from the ordinary dialogs too, not only take the user's turns from them."""
    sft: FineTuneRecipe | None = None
    """Fine-tuning that makes a chat model of a base model first; none: the model is one."""
    ghost: GhostRecipe = GhostRecipe()
    """Sampled dialogs."""
    fine_tune: FineTuneRecipe = FineTuneRecipe()
    """Fine-tuning of the chat model on them and on the demonstrations."""
    retention: RetentionRecipe = RetentionRecipe()
    """What is measured, without and with."""
    attention: AttentionRecipe = AttentionRecipe()
    """What both attend to."""

    @model_validator(mode="after")
    def _instructions_are_learned_first(self) -> Self:
        if self.instructed and (self.constraints.constraints == "generated" or not self.sft):
            raise ValueError(
                "instructed teaches a base model: it needs sft, and constraints that are not generated"
            )
        return self


class Event(Record):
    """Something that was not always known."""

    event: str
    """As in "When was the first moon landing?"."""
    date: date
    """Before it, nobody can know."""


class DatedRecipe(Record):
    """Dialogs that state a date and ask about an event. Llama 2 section 3.3, "temporal perception"."""

    events: tuple[Event, ...] | Literal["starter"] = "starter"
    """What is asked about."""
    dialogs: Positive = 1000
    """How many that state a date. Llama 2: 1,000."""
    undated: Positive | None = None
    """Dialogs that ask without stating a date, so that a small model knows the events at all."""
    years_around: Positive = 30
    """Stated dates are so far from the event at most, either way."""


class TemporalRecipe(Record):
    """Teaching a model that what it knows depends on the date."""

    start: StartRecipe = StartRecipe()
    """A longer context, if the model's is too short."""
    dated: DatedRecipe = DatedRecipe()
    """Dialogs with dates."""
    ordinary: bool = True
    """Learn from the ordinary dialogs too."""
    fine_tune: FineTuneRecipe = FineTuneRecipe()
    """Fine-tuning on all of them."""
    questions: Positive = 400
    """Held-out pairs of event and stated date asked before and after, half of them before the event."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.0)
    """Answers."""
