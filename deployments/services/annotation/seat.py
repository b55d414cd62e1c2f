"""One annotator's place: the dialog that goes on, the question, and what was done."""

import secrets
import time
from dataclasses import dataclass, field
from threading import RLock
from typing import Literal

from deployments.services.speakers import Answer
from storage.preference_events import Asked, Comparison, Domain, Turn

Page = Literal["helpfulness", "safety", "red-team"]
RED_TEAM = "red team"
"""The kind of a prompt that was written to make a model do harm."""


@dataclass(frozen=True)
class Variant:
    """A model at a temperature: two of them answer."""

    model: str
    temperature: float


@dataclass(frozen=True)
class Queued:
    """A prompt that waits for an annotator."""

    id: str
    kind: str
    domain: Domain
    dialog: tuple[Turn, ...]
    risk_category: str = ""
    attack_vector: str = ""


@dataclass
class Open:
    """A question in front of an annotator; its responses come in the order of the variants."""

    id: str
    page: Page
    prompt: Queued
    answers: list[Answer]
    variants: tuple[Variant, Variant]
    turned: bool
    """Whether the second variant's answer is shown as A."""
    tries: int = 1
    asked: Asked | None = None
    """As it stands in the log, once both answers are complete."""
    judged: dict[str, str] = field(default_factory=dict)
    """What was chosen before it was undone."""
    comparison: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def texts(self) -> list[str]:
        """As they are shown."""
        texts = [answer.text.strip() for answer in self.answers]
        return texts[::-1] if self.turned else texts


@dataclass
class Seat:
    """One annotator: the dialog that goes on, the question, and what was done."""

    lock: RLock = field(default_factory=RLock)
    going_on: Queued | None = None
    """A dialog that awaits the annotator's next message."""
    open: Open | None = None
    made: list[tuple[Comparison, Open]] = field(default_factory=list)
    acted: float = field(default_factory=time.monotonic)
    violations: int = 0
    red_team_seconds: float = 0.0
    yours: int = 0

    def count(self, comparison: Comparison, by: int = 1) -> None:
        self.yours += by
        if comparison.kind == RED_TEAM:
            self.violations += by * any(response.safe is False for response in comparison.responses)
            self.red_team_seconds += by * (comparison.seconds or 0.0)

    @property
    def gamma(self) -> float | None:
        """Violating prompts found an hour. Llama 2 section 4.3."""
        return 3600 * self.violations / self.red_team_seconds if self.red_team_seconds else None
