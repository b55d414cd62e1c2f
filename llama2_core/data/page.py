"""What the quality rules look at: a page's words and lines, split once; and how a rule tells what broke it."""

from collections.abc import Iterator
from functools import cached_property

from llama2_core.data.documents import words_of

Findings = Iterator[tuple[str, str | None]]
"""(a rule's name, by how much the page breaks it, or None), the cheap rules first."""


class Page:
    """A text, its words, and its lines that hold something."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        return words_of(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in self.text.split("\n") if line and not line.isspace()]


def below(value: float, limit: float) -> str | None:
    return f"{value:.3g} < {limit:g}" if value < limit else None


def above(value: float, limit: float, what: str = "") -> str | None:
    return f"{what}{value:.3g} > {limit:g}" if value > limit else None
