"""Profiles: whole parameter sets in YAML, checked before any work starts."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from llama2_core.config import Natural, Record
from llama2_core.errors import ConfigError
from tasks.adapt_recipe import AdaptRecipe
from tasks.arena_recipe import ArenaRecipe, DiversityRecipe, SafetyRatingsRecipe
from tasks.ghost_recipe import GhostAttentionRecipe, TemporalRecipe
from tasks.recipes import EvaluationRecipe, FineTuneRecipe, Llama2Recipe
from tasks.rounds_recipe import RetrainRecipe, RoundsRecipe
from tasks.runtime import Runtime
from tasks.safety_recipe import (
    ContextDistillationRecipe,
    PrepromptedRecipe,
    SafetyPromptsRecipe,
    SafetyScalingRecipe,
)

FOLDER = Path(__file__).parent / "profiles"


class Profile(Record):
    """What `llama2 run` runs."""

    recipe: Llama2Recipe = Llama2Recipe()
    """What is made."""
    runtime: Runtime = Runtime()
    """Where and how."""


class RoundsProfile(Record):
    """What `llama2 rlhf` runs."""

    recipe: RoundsRecipe = RoundsRecipe()
    """What is made."""
    runtime: Runtime = Runtime()
    """Where and how."""


class RetrainProfile(Record):
    """What `llama2 retrain` runs."""

    recipe: RetrainRecipe = RetrainRecipe()
    """What is made."""
    runtime: Runtime = Runtime()
    """Where and how."""


class FineTuneProfile(Record):
    """What `llama2 finetune` runs."""

    recipe: FineTuneRecipe = FineTuneRecipe()
    """How it is fine-tuned."""
    seed: Natural = 0
    """Root of every random stream."""
    runtime: Runtime = Runtime()
    """Where and how."""


class TeachProfile(Record):
    """What `llama2 teach` runs."""

    ghost_attention: GhostAttentionRecipe = GhostAttentionRecipe()
    """How a model is taught to keep to its first instruction."""
    temporal: TemporalRecipe = TemporalRecipe()
    """How it is taught to keep to a stated date."""
    seed: Natural = 0
    """Root of every random stream."""
    runtime: Runtime = Runtime()
    """Where and how."""


class AdaptProfile(Record):
    """What `llama2 adapt` runs."""

    recipe: AdaptRecipe = AdaptRecipe()
    """How it is adapted."""
    seed: Natural = 0
    """Root of every random stream."""
    runtime: Runtime = Runtime()
    """Where and how."""


class SafetyProfile(Record):
    """What `llama2 safety` runs."""

    prompts: SafetyPromptsRecipe = SafetyPromptsRecipe()
    """Public prompts."""
    preprompted: PrepromptedRecipe = PrepromptedRecipe()
    """Demonstrations behind preprompts."""
    distillation: ContextDistillationRecipe = ContextDistillationRecipe()
    """Answers behind preprompts, and the gate."""
    scaling: SafetyScalingRecipe = SafetyScalingRecipe()
    """Shares of the safety data."""
    fine_tune: FineTuneRecipe = FineTuneRecipe()
    """Every fine-tuning of these."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    """Answers to held-out prompts."""
    seed: Natural = 0
    """Root of every random stream."""
    runtime: Runtime = Runtime()
    """Where and how."""


class ArenaProfile(Record):
    """What the commands that set models beside each other are told."""

    compare: ArenaRecipe = ArenaRecipe()
    """Two models' answers, compared."""
    rate: SafetyRatingsRecipe = SafetyRatingsRecipe()
    """Answers, rated by safety."""
    diversity: DiversityRecipe = DiversityRecipe()
    """Samples at several temperatures."""
    seed: Natural = 0
    """Root of every random stream."""
    runtime: Runtime = Runtime()
    """Where and how."""


Values = TypeVar("Values", bound=Record)


def load_profile(name: str, changes: list[str], kind: type[Values] = Profile) -> Values:
    """Load a profile by name or path and apply "path=value" changes.

    Raises ConfigError naming the file and the field's path for an unknown field, a bad type or a bad value.
    """
    path = FOLDER / f"{name}.yaml" if not name.endswith((".yaml", ".yml")) else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml")))
        raise ConfigError(f"{path}: no such profile; there are {names}, or give the path of a YAML file")
    return read_profile(kind, path, changes)


def read_profile(kind: type[Values], path: Path, changes: list[str]) -> Values:
    """Load a profile from a YAML file and apply "path=value" changes.

    Raises ConfigError naming the file and the field's path for an unknown field, a bad type or a bad value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected fields such as recipe and runtime, found {values!r}")
    return changed(kind, values, changes, str(path))


def changed(kind: type[Values], values: dict[str, Any], changes: list[str], origin: str) -> Values:
    """Return a record of the values after "path=value" changes. Raises ConfigError as `load_profile` does."""
    for change in changes:
        apply(values, change)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(
            f"  {field_path(e['loc'])}: {e['msg']}"
            + (f" (found {e['input']!r})" if e["type"] != "secret" else "")
            for e in error.errors()
        )
        raise ConfigError(
            f"{origin} with {len(changes)} --set changes:\n{problems}"
        ) from None  # it shows all input


def with_home(changes: list[str] | None, home: Path) -> list[str]:
    """Return the changes, and the home of a command that has --home. Raises ConfigError where they name another."""
    if any(change.startswith("runtime.home=") for change in changes or []):
        raise ConfigError("this command takes its home as --home DIR, not as --set runtime.home=DIR")
    return [*(changes or []), f"runtime.home={json.dumps(str(home))}"]


def apply(values: dict[str, Any], change: str) -> None:
    """Set a nested value from "recipe.pretrain.loop.steps=100"; the value is read as YAML."""
    name, equals, text = change.partition("=")
    keys = name.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {change!r}: expected path=value, such as recipe.seed=1")
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {change!r}: {key} is a value, not a group of fields")
    try:
        values[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: the value is not readable as YAML: {error}") from error


def field_path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
