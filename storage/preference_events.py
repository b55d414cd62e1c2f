"""What annotators do, as records: comparisons, ratings, what is undone or skipped, batches. Llama 2 section 3.2.1."""

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Id = Annotated[str, Field(pattern=r'^[^\s"\\\x00-\x1f]{1,200}$')]
"""Without quotes and backslashes, as names are: it looks the same in JSON, so ids are found without parsing."""
Name = Annotated[str, Field(pattern=r'^[^"\\\x00-\x1f]{1,200}$')]
Natural = Annotated[int, Field(ge=0)]
Grade = Literal["significantly better", "better", "slightly better", "negligibly better"]
GRADES: tuple[Grade, ...] = ("significantly better", "better", "slightly better", "negligibly better")
"""As the core's, which this layer does not import."""
Domain = Literal["helpfulness", "safety"]
AnnotatorKind = Literal["person", "simulated", "judge", "import"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Turn(Record):
    role: Literal["system", "user", "assistant"]
    content: str


def check_turns(dialog: tuple[Turn, ...]) -> None:
    """Raise ValueError unless turns alternate, a system message aside, and the user's is the last."""
    turns = dialog[1:] if dialog[0].role == "system" else dialog
    for index, turn in enumerate(turns):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise ValueError(f"dialog: turn {index + 1} is by {turn.role}, expected {expected}")
    if len(turns) % 2 == 0:
        raise ValueError("dialog: must end with a turn of the user, which the responses answer")


class Response(Record):
    """One of the two that are compared."""

    text: str
    model: str = ""
    """What wrote it, "" where that is not known."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    safe: bool | None = None
    """The annotator's label; none where nobody was asked."""


class Lengths(Record):
    """How long the texts are, in one unit."""

    unit: str
    """ "words", or "tokens of" and the beginning of the tokenizer's digest."""
    turns: Natural
    """Of the user."""
    prompt: Natural
    """Of the user's turns together."""
    dialog: Natural
    """Of all turns before the response."""
    responses: tuple[Natural, Natural]


class Comparison(Record):
    """One annotator's choice between two responses."""

    event: Literal["comparison"] = "comparison"
    id: Id
    """Given by whoever asks, so that a request sent twice is one comparison."""
    batch: Id
    annotator: Name
    question: Id
    """What was shown; several annotators may be asked the same, with the same responses in the same order."""
    prompt_id: Id
    domain: Domain
    dialog: Annotated[tuple[Turn, ...], Field(min_length=1)]
    """Up to the user's turn that is answered."""
    responses: tuple[Response, Response]
    chosen: Literal[0, 1]
    grade: Grade | None
    """None only of an import that has none."""
    annotator_kind: AnnotatorKind
    time: AwareDatetime
    seconds: Annotated[float, Field(ge=0)] | None = None
    """From question to answer."""
    kind: str = ""
    """Of the prompt: problem, definition, conversation, unsafe, borderline."""
    risk_category: str = ""
    attack_vector: str = ""
    lengths: Lengths | None = None
    """Counted in words by the log when left out."""

    @model_validator(mode="after")
    def _can_be_learned_from(self) -> Self:
        check_turns(self.dialog)
        first, second = (response.text.strip() for response in self.responses)
        if not (first and second):
            raise ValueError("responses: one is blank")
        if first == second:
            raise ValueError("responses: both are equal, so neither is better")
        if self.annotator_kind != "import":
            if self.grade is None:
                raise ValueError("grade: is missing")
            if self.domain == "safety" and any(response.safe is None for response in self.responses):
                raise ValueError("responses: a safety comparison says of each whether it is safe")
        return self


class Asked(Record):
    """A question put before an annotator, with both responses; what a restart takes up again."""

    event: Literal["asked"] = "asked"
    id: Id
    question: Id
    batch: Id
    annotator: Name
    prompt_id: Id
    kind: str
    domain: Domain
    dialog: Annotated[tuple[Turn, ...], Field(min_length=1)]
    responses: tuple[Response, Response]
    turned: bool
    """Whether the second response was shown first."""
    time: AwareDatetime
    risk_category: str = ""
    attack_vector: str = ""


class Rating(Record):
    """What an annotator says of answers that are there to be evaluated; no model learns from it."""

    event: Literal["rating"] = "rating"
    id: Id
    batch: Id
    annotator: Name
    question: Id
    """Of the batch's sheet."""
    value: Annotated[int, Field(ge=-3, le=5)]
    """Of two answers 3 to -3, for the first; of one 1 to 5."""
    turned: bool = False
    """Whether the second answer was shown first."""
    time: AwareDatetime
    seconds: Annotated[float, Field(ge=0)]
    """From question to answer."""


class Undo(Record):
    """An annotator takes a comparison or a rating back; of a frozen batch that is too late."""

    event: Literal["undo"] = "undo"
    id: Id
    """Of what is taken back."""
    annotator: Name
    time: AwareDatetime


class Skip(Record):
    """An annotator leaves a question unanswered."""

    event: Literal["skip"] = "skip"
    id: Id
    question: Id
    batch: Id
    annotator: Name
    time: AwareDatetime
    reason: str = ""


class BatchOpened(Record):
    """Comparisons are collected under this name; weekly in the paper."""

    event: Literal["opened"] = "opened"
    id: Id
    """The batch's name."""
    target: Annotated[int, Field(gt=0)]
    """Comparisons wanted."""
    time: AwareDatetime


class BatchFrozen(Record):
    """The batch is closed for good: nothing is added or undone, and models may learn from it."""

    event: Literal["frozen"] = "frozen"
    id: Id
    """The batch's name."""
    time: AwareDatetime
    held_out_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Of the prompts; their comparisons test the reward models."""
    most_held_out: Natural = 1000
    """Comparisons held out at most. Llama 2: 1,000 a batch."""
    seed: int = 0
    """Of the draw of prompts; the same in all batches, so that a prompt is on one side in all of them."""


Event = Comparison | Asked | Rating | Undo | Skip | BatchOpened | BatchFrozen
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def measure(comparison: Comparison, unit: str, count: Callable[[str], int]) -> Lengths:
    """Return the lengths in a unit, given what counts it in a text."""
    first, second = (count(response.text) for response in comparison.responses)
    turns = [(turn.role, count(turn.content)) for turn in comparison.dialog]
    asked = [n for role, n in turns if role == "user"]
    return Lengths(
        unit=unit,
        turns=len(asked),
        prompt=sum(asked),
        dialog=sum(n for _, n in turns),
        responses=(first, second),
    )


def in_words(comparison: Comparison) -> Lengths:
    return measure(comparison, "words", lambda text: len(text.split()))
