"""What a stage is: its kind, what defines it, what it is made from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama2_core.config import Record
from storage.disk import content_digest
from storage.manifest import digest_of

FORMAT_VERSIONS = {
    "corpus": 4,
    "tokenizer": 3,
    "tokens": 3,
    "dialogs": 8,
    "base": 7,
    "chat": 7,
    "comparisons": 5,
    "reward": 6,
    "scores": 1,
    "reward-report": 1,
    "samples": 4,
    "prompts": 1,
    "demonstrations": 3,
    "distilled": 1,
    "answers": 1,
    "safety-report": 1,
    "ppo": 8,
    "dpo": 1,
    "evaluation": 4,
    "verdict": 2,
    "replies": 1,
    "sheet": 1,
    "verdicts": 1,
    "arena-report": 1,
    "decision": 1,
    "contamination": 1,
    "benchmarks": 2,
    "card": 1,
    "report-card": 1,
    "adaptation": 1,
    "export": 2,
    "constraints": 1,
    "lessons": 1,
    "ghost": 1,
    "retention": 1,
    "attention": 1,
    "ghost-report": 1,
    "temporal": 1,
    "temporal-report": 1,
}
"""Raised by one when a change of code changes what a kind holds."""

TRAINED = frozenset({"base", "chat", "reward", "ppo", "dpo"})
"""Kinds that several processes, and machines, make together."""


@dataclass(frozen=True)
class Job:
    """One stage to be built: what it is, what defines it, what it is made from."""

    label: str
    """For people: "helpfulness reward model, round 2"."""
    kind: str
    recipe: Record
    seed: int = 0
    parents: dict[str, str] = field(default_factory=dict)
    """Role -> "kind/digest"."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Recipe fields that name raw input by place -> the same by content."""
    processes: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.recipe.model_dump(mode="json"), "seed": self.seed, **self.inputs}

    @property
    def digest(self) -> str:
        return digest_of(self.kind, FORMAT_VERSIONS[self.kind], self.identity, self.parents)


class Own(Record):
    """What comes from outside is defined by its content alone."""


def own_job(path: Path) -> Job:
    """Return the stage that reads a model into the store, named by what its files hold."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    content = {file.relative_to(path).as_posix(): content_digest(file) for file in files}
    return Job(f"model {path.name}", "base", Own(), inputs={"content": content})
