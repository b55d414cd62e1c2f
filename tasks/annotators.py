"""Who compares two answers: a scripted rubric or a language model here, people on the annotation page."""

from dataclasses import dataclass
from typing import Protocol

from llama2_core.config import Grade
from tasks.tables import Prompt


@dataclass(frozen=True)
class Verdict:
    """A choice between two answers."""

    first_is_better: bool
    grade: Grade
    first_safe: bool
    second_safe: bool


class Annotator(Protocol):
    """Compares answers; every comparison says by which kind of annotator, and by which, it was made."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    def compare(self, prompt: Prompt, first: str, second: str, seed: int) -> Verdict | None:
        """Return a verdict, or none where the annotator does not decide."""
        ...
