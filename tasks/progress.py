"""How far a worker is: a bar in the terminal, and a progress artifact beside its run in Prefect's UI."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from httpx import HTTPError
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError, PrefectException
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

TELL_SECONDS = 5.0
"""Between two updates in Prefect: one takes a core from the worker for some milliseconds."""
SHOWN = {
    "step": "step {step:,} of {of:,}",
    "loss": "loss {loss:.4g}",
    "reward": "reward {reward:.4g}",
    "tokens_per_second": "{tokens_per_second:,.0f} tokens/s",
    "left": "{left} left",
}
console = Console()


def say(line: str) -> None:
    """Print a line of rich markup, and leave it in the log of the Prefect run if there is one."""
    console.print(line, soft_wrap=True)
    with suppress(MissingContextError):
        get_run_logger().info(Text.from_markup(line).plain.strip())


class StageProgress:
    """Shows a stage's metric rows as they come: "step" of "of" steps, and what else they hold."""

    def __init__(self, label: str, kind: str, bar: Progress) -> None:
        self._label, self._bar = label, bar
        self._line = bar.add_task(label, total=None)
        self._facts: dict[str, Any] = {}
        self._first: tuple[int, float] | None = None
        self._due = 0.0
        self._artifact: UUID | None = None
        if TaskRunContext.get() or FlowRunContext.get():
            made = create_progress_artifact(0.0, f"{kind}-progress", f"{label}: starting")
            self._artifact = cast(UUID, made)

    def show(self, row: Mapping[str, Any]) -> None:
        """Take in the newest row."""
        step, steps, now = row["step"], row["of"], time.monotonic()
        self._bar.update(self._line, completed=step, total=steps)
        self._first = self._first or (step, now)
        self._facts |= row
        if step > self._first[0]:
            a_step = (now - self._first[1]) / (step - self._first[0])
            self._facts["left"] = timedelta(seconds=round(a_step * (steps - step)))
        if now >= self._due:
            self._tell(round(100 * step / steps, 1), described(self._label, self._facts))
            self._due = time.monotonic() + TELL_SECONDS

    def finish(self) -> None:
        self._facts.pop("left", None)
        self._tell(100.0, f"{described(self._label, self._facts)}: done")

    def _tell(self, percent: float, description: str) -> None:
        if self._artifact is None:
            return
        try:
            update_progress_artifact(self._artifact, percent, description)
        except (
            PrefectException,
            HTTPError,
        ) as error:  # a bar that stands still must not end a week's training
            logging.getLogger(__name__).warning(f"Prefect was not told how far {self._label} is: {error}")


@contextmanager
def progress(label: str, kind: str) -> Iterator[StageProgress]:
    """Show a stage until it ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with transient(*columns, TimeRemainingColumn()) as bar:
        yield StageProgress(label, kind, bar)


def transient(*columns: ProgressColumn) -> Progress:
    """Return a line that goes when it is done, and is not drawn where there is no terminal."""
    return Progress(
        TextColumn(" "), *columns, console=console, transient=True, disable=not console.is_terminal
    )


def described(label: str, facts: Mapping[str, Any]) -> str:
    """Return a line on how far a stage is."""
    return ", ".join([label, *(form.format(**facts) for name, form in SHOWN.items() if name in facts)])
