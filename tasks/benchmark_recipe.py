"""What defines an evaluation on benchmarks, and the suites that Llama 2 reports. No prefect, no torch, no lm-eval."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from llama2_core.config import Natural, Positive, Record
from llama2_core.errors import ConfigError
from tasks.sandbox import available

FOLDER = Path(__file__).parent / "benchmarks"
LENGTHS = (10, 20, 30, 40, 50)
HARNESS = "0.4.13"
"""The release of lm-eval that tasks and scores are those of; pinned in pyproject.toml."""


class TaskRecipe(Record):
    """A task, group or tag of lm-eval, or a task file of ours."""

    name: str
    """As lm-eval knows it."""
    shots: Natural | None = None
    """Examples before each question; the task file's own number when left out."""


class BenchmarkRecipe(Record):
    """Which tasks, and how they are asked. Batches belong to the runtime: they change nothing but rounding."""

    tasks: Annotated[tuple[TaskRecipe, ...], Field(min_length=1)]
    """Tasks."""
    suite: str = ""
    """The suite that they are, for its averages."""
    limit: Positive | None = None
    """Questions of each task, the first so many; all when left out."""
    bos: bool = True
    """Begin every prompt with BOS, as in training; an empty context is BOS in any case."""
    chat: bool = False
    """Put each prompt, with its examples, into one turn of the chat template."""
    judge: str = ""
    """`http://host:port/v1#model`: who judges TruthfulQA's generated answers; nobody when left out."""
    fewshot_seed: Natural = 1234
    """Of the examples that lm-eval draws; its own default."""
    harness: str = HARNESS
    """Release of lm-eval."""

    @model_validator(mode="after")
    def _names_each_task_once(self) -> Self:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"asked for twice: {', '.join(twice)}")
        return self


class ContaminationRecipe(Record):
    """How a benchmark is searched for in training tokens. Llama 2 appendix A.6."""

    lengths: Annotated[tuple[Positive, ...], Field(min_length=1)] = LENGTHS
    """Shortest matches tried, in tokens; at 10 a match is longer than that."""


class Member(Record):
    """A data set of a suite, as the paper measures it."""

    task: str
    """lm-eval's name."""
    shots: Natural | None = None
    """The paper's."""
    metric: str
    """lm-eval's metric and filter, joined by a comma."""
    runs_code: bool = False
    """The model's answers are executed: left out where there is no sandbox."""
    judged: bool = False
    """By a judge: left out without one."""
    table: str = ""
    """Of the paper, that prints them."""
    paper: tuple[float | None, ...] = ()
    """Llama 2's scores in percent: 7B, 13B, 34B, 70B."""
    paper_chat: tuple[float | None, ...] = ()
    """The same of Llama 2-Chat."""
    note: str = ""
    """Where this differs from the paper, or the paper from itself."""


class Group(Record):
    """Members whose mean the paper reports."""

    members: tuple[Member, ...]
    """Data sets."""
    table: str = ""
    """Of the paper, that prints their mean."""
    paper: tuple[float | None, ...] = ()
    """The mean as the paper prints it: 7B, 13B, 34B, 70B."""
    note: str = ""
    """Misprints."""


def stay_offline() -> None:
    """Forbid the hub, unless the user allows it by HF_HUB_OFFLINE=0. Before lm-eval is imported: it is read then."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@cache
def suites() -> dict[str, dict[str, Group]]:
    """Return suite -> group -> members, in the order of the paper's tables."""
    return {
        suite: {name: Group.model_validate(group) for name, group in groups.items()}
        for suite, groups in _yaml("suites.yaml").items()
    }


def suite_recipe(suite: str, **settings: Any) -> BenchmarkRecipe:
    """Return the recipe of a suite's tasks, without those that need a sandbox or a judge where there is none.

    Raises ConfigError where none is left.
    """
    everything = [member for group in suites()[suite].values() for member in group.members]
    members = [
        m
        for m in everything
        if not (m.runs_code and available()) and not (m.judged and not settings.get("judge"))
    ]
    if not members:
        raise ConfigError(
            f"no task of the suite {suite} can be asked here: {available() or 'give a --judge'}"
        )
    once = dict.fromkeys((member.task, member.shots) for member in members)
    tasks = tuple(TaskRecipe(name=name, shots=shots) for name, shots in once)
    return BenchmarkRecipe(tasks=tasks, suite=suite, **settings)


def _yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
