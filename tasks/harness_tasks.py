"""lm-eval's task files and ours: names, what data they read, and how files in the store take the hub's place."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Kind

from llama2_core.errors import ConfigError, DataError
from tasks.benchmark_data import Splits, needs, splits_of
from tasks.benchmark_recipe import FOLDER, BenchmarkRecipe
from tasks.sandbox import available

logging.getLogger("lm_eval").setLevel(logging.ERROR)
Config = dict[str, Any]
SPLITS = ("training_split", "validation_split", "fewshot_split")
FAMILIAR = (
    *(
        "agieval",
        "arc",
        "bbh/cot_fewshot",
        "ceval",
        "cmmlu",
        "commonsense_qa",
        "gsm8k",
        "hellaswag",
        "humaneval",
    ),
    *(
        "mbpp",
        "mmlu/default",
        "nq_open",
        "openbookqa",
        "piqa",
        "siqa",
        "super_glue/boolq",
        "triviaqa",
        "truthfulqa",
    ),
    *("toxigen", "winogrande"),
)
"""lm-eval's folders that suites use: a second to index, where all 14,000 files take six."""


class _LocalFactory(TaskFactory):
    """Makes tasks whose data come from the store where it has them."""

    def __init__(self, local: Mapping[tuple[str, str | None], Splits], scratch: Path) -> None:
        super().__init__()
        self.local, self.scratch = local, scratch

    def _load_full_config(self, entry: Any, overrides: Config | None = None) -> Config:
        config = super()._load_full_config(entry, overrides)
        splits = self.local.get((str(config.get("dataset_path")), config.get("dataset_name")))
        if splits:
            files = {split: str(path) for split, path in splits.items()}
            read = {"data_files": files, "cache_dir": str(self.scratch)}
            config |= {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": read}
            asked = config.get("test_split") or config.get("validation_split")
            if asked not in splits:
                raise DataError(
                    f"{config['task']} asks its split {asked}, which is not in the store: add its file"
                )
            absent = {key: config[key] for key in SPLITS if config.get(key) and config[key] not in splits}
            config["metadata"]["absent"] = absent
            config |= dict.fromkeys(absent)
        return config


@cache
def _manager(everything: bool) -> TaskManager:
    folders: list[str | Path] = [FOLDER]
    if not everything:
        folders += [Path(lm_eval.tasks.__file__).parent / name for name in FAMILIAR]
    return TaskManager(include_path=folders, include_defaults=everything)


def _manager_for(recipe: BenchmarkRecipe) -> TaskManager:
    manager = _manager(everything=False)
    if not all(task.name in manager.all_tasks for task in recipe.tasks):
        manager = _manager(everything=True)
    for task in recipe.tasks:
        if task.name not in manager.all_tasks:
            near = get_close_matches(task.name, manager.all_tasks, n=3, cutoff=0.6)
            advice = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists them"
            raise ConfigError(f"there is no task {task.name!r}: {advice}")
    return manager


def _leaves(manager: TaskManager, name: str, changes: Config) -> Iterator[Config]:
    """Yield the configuration of each single task that a name stands for."""
    entry = manager.task_index[name]
    if entry.kind == Kind.TAG:
        for member in sorted(entry.tags):
            yield from _leaves(manager, member, changes)
    elif entry.kind == Kind.GROUP:
        for member in (entry.cfg or {}).get("task", []):
            if isinstance(member, str):
                yield from _leaves(manager, member, changes)
                continue
            base = member.get("task", member.get("group"))
            if isinstance(base, str) and base in manager.task_index:
                yield from _leaves(manager, base, {**changes, **member})
            else:  # a group within a group's file
                for inner in base if isinstance(base, list) else member.get("task", []):
                    yield from _leaves(manager, inner if isinstance(inner, str) else inner["task"], changes)
    else:
        yield {**(entry.cfg or {}), **changes, "task": name}


def datasets_needed(recipe: BenchmarkRecipe) -> dict[str, set[str]]:
    """Return which of our data sets each of the recipe's names reads.

    Raises ConfigError for a name that does not exist (with the nearest), and for tasks that execute what a model says.
    """
    manager = _manager_for(recipe)
    found: dict[str, set[str]] = {}
    for task in recipe.tasks:
        needed = found[task.name] = set()
        for config in _leaves(manager, task.name, {}):
            if config.get("unsafe_code"):
                raise ConfigError(
                    f"{config['task']} executes code that the model writes, outside of any sandbox, so it is refused; "
                    "humaneval_sandboxed and mbpp_sandboxed are judged in one"
                )
            metadata = config.get("metadata")
            metadata = metadata if isinstance(metadata, dict) else {}
            if metadata.get("runs_code") and (missing := available()):
                raise ConfigError(f"{config['task']} runs code that the model writes: {missing}")
            if metadata.get("judged") and not recipe.judge:
                raise ConfigError(f"{config['task']} needs a judge: --judge http://host:port/v1#model")
            needed.update(needs(config))
    return found


def load_tasks(recipe: BenchmarkRecipe, local: Mapping[str, Path], scratch: Path) -> dict[str, Any]:
    """Return what lm-eval's `evaluate` takes; `local` is data set -> folder in the store.

    Raises DataError for data that are neither in the store nor, if it may be asked, on the hub.
    """
    manager = _manager_for(recipe)
    manager._factory = _LocalFactory(splits_of(local), scratch)
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for asked in recipe.tasks:
        try:
            loaded = manager.load([asked.name])
        except (ConnectionError, FileNotFoundError, ValueError) as error:
            raise DataError(
                f"{asked.name}: its data cannot be opened: {' '.join(str(error).split())[:300]}. Put its files "
                "into the store with `llama2 benchmarks add`, or set HF_HUB_OFFLINE=0 to ask the hub"
            ) from error
        if twice := tasks.keys() & loaded["tasks"].keys():
            raise ConfigError(
                f"{asked.name}: {sorted(twice)[0]} is asked for by another name too; leave one out"
            )
        for task in loaded["tasks"].values():
            shots = asked.shots if asked.shots is not None else task.get_config("num_fewshot")
            task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=recipe.fewshot_seed)
            _check_shots(task, shots or 0)
        tasks |= loaded["tasks"]
        groups |= loaded.get("groups", {})
    names = {name: group.child_names for name, group in groups.items()}
    return {"tasks": tasks, "groups": groups, "group_map": names}


def use_resources(folders: Sequence[Path]) -> None:
    """Let NLTK find its data in the store."""
    if not folders:
        return
    import nltk  # noqa: PLC0415  (seconds)

    nltk.data.path[:0] = [str(folder) for folder in folders if str(folder) not in nltk.data.path]


def _check_shots(task: Any, shots: int) -> None:
    """Raises DataError where examples would be drawn from another split than the task's, or are too few."""
    name, metadata = task.config.task, task.config.metadata or {}
    absent = metadata.get("absent", {}) if isinstance(metadata, dict) else {}
    split = absent.get("fewshot_split") or absent.get("training_split")
    fixed = task.config.fewshot_config and task.fewshot_cfg.samples
    if shots and split and not fixed:
        raise DataError(
            f"{name}: {shots} examples are asked for; their split {split} is not in the store: add its file"
        )
    there = len(task.sampler.df)
    if shots > there:
        raise DataError(f"{name}: {shots} examples are asked for, but its files hold {there}")
