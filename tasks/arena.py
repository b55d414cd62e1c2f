"""Models beside each other: what they are asked, their answers, the sheets that are judged, people's ratings."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.errors import DataError
from llama2_core.seeding import derive_seed
from storage.arena_tables import REPLIES, SHEET, VERDICTS
from storage.artifacts import Artifact, Store
from storage.disk import content_digest
from storage.preference_log import read_ratings
from storage.preferences import preferences_folder
from storage.schemas import PROMPTS, read_rows, read_table, write_table
from storage.sources.prompts import read_prompt_file
from tasks.arena_recipe import AskedRecipe, RatersRecipe, RepliesRecipe, SheetRecipe, VerdictsRecipe
from tasks.arena_tally import agreement, asked, by_people, summary
from tasks.chat_server import ChatServer
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.own import chosen_model
from tasks.runtime import Runtime
from tasks.sampling_recipe import ServerRecipe
from tasks.tables import dialog_from_json, read_prompt_rows

Rows = list[dict[str, Any]]


@task(name="asked prompts", task_run_name="prompts of {source}", cache_policy=NO_CACHE)
def asked_prompts(recipe: AskedRecipe, source: str, seed: int, runtime: Runtime) -> str:
    """Choose the prompts of a file, .jsonl or .parquet, or of an artifact's held-out split.

    Raises SourceError naming the file's row, DataError where no prompt is of the kinds asked for.
    """
    file, own = Path(source), Path(source).is_file()
    rows = read_prompt_file(file) if own else read_prompt_rows(find(source, runtime).path, "held_out")
    chosen = choose(recipe, list(rows), seed)
    if not chosen:
        raise DataError(f"{source} has no held-out prompts of the kinds {dict(recipe.groups) or 'asked for'}")

    def work(directory: Path) -> dict[str, Any]:
        write_table(directory / "prompts.parquet", chosen, PROMPTS)
        return {"prompts": len(chosen), "kinds": Counter(row["kind"] for row in chosen)}

    parents, inputs = ({}, {"content": content_digest(file)}) if own else ({"prompts": source}, {})
    return build(Job("asked prompts", "prompts", recipe, seed, parents, inputs), runtime, work)


def choose(recipe: AskedRecipe, rows: Rows, seed: int) -> Rows:
    """Return the prompts of the groups under their names, so many of each kind, in stored order."""
    group_of = {kind: group for group, kinds in recipe.groups.items() for kind in kinds}
    if group_of:
        rows = [row | {"kind": group_of[row["kind"]]} for row in rows if row["kind"] in group_of]
    if recipe.most is None:
        return rows
    by_kind: dict[str, Rows] = defaultdict(list)
    for row in sorted(rows, key=lambda row: derive_seed(seed, "asked", row["id"])):
        by_kind[row["kind"]].append(row)
    kept = {row["id"] for of in by_kind.values() for row in of[: recipe.most]}
    return [row for row in rows if row["id"] in kept]


def labels(models: Sequence[str]) -> dict[str, str]:
    """Return what each model is called -> the model: an artifact's name, a folder's, or the one that a server knows."""
    short = [
        model.partition("#")[2] if is_served(model) else Path(model).name if Path(model).exists() else model
        for model in models
    ]
    return {
        f"{label} {place}" if short.count(label) > 1 else label: model
        for place, (label, model) in enumerate(zip(short, models, strict=True), 1)
    }


def is_served(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def source_of(model: str, runtime: Runtime) -> str:
    """Return a server's address, or an artifact's full name. Raises ServerFailed, ArtifactNotFound, DataError."""
    if is_served(model):
        ChatServer.parse(model)
        return model
    return chosen_model(model, runtime)


@task(name="replies", task_run_name="answers of {label}", cache_policy=NO_CACHE)
def replies(recipe: RepliesRecipe, label: str, model: str, prompts: str, seed: int, runtime: Runtime) -> str:
    """Have a model answer: an artifact, or `http://host:port/v1#model`."""
    if is_served(model):
        recipe = recipe.model_copy(update={"engine": ServerRecipe(server=model)})
        parents = {"prompts": prompts}
    else:
        parents = {"prompts": prompts, "chat": model}
    return build(Job(f"answers of {label}", "replies", recipe, seed, parents), runtime)


@task(name="sheet", task_run_name="answers to judge", cache_policy=NO_CACHE)
def sheet(prompts: str, answers: Mapping[str, str], paired: bool, runtime: Runtime) -> str:
    """Put models' answers, label -> replies, beside each other, or one below the other."""
    found = {label: find(name, runtime) for label, name in answers.items()}
    rows = list(sheet_rows(find(prompts, runtime).path, found, paired))

    def work(directory: Path) -> dict[str, Any]:
        write_table(directory / "sheet.parquet", rows, SHEET)
        return {"questions": len(rows), "asked": len(asked(rows))}

    parents = {
        "prompts": prompts,
        **{f"replies {place}": name for place, name in enumerate(answers.values())},
    }
    recipe = SheetRecipe(models=tuple(answers), paired=paired)
    return build(Job("answers to judge", "sheet", recipe, parents=parents), runtime, work)


def sheet_rows(prompts: Path, answers: Mapping[str, Artifact], paired: bool) -> Iterator[dict[str, Any]]:
    said = {
        label: {row["prompt_id"]: row["response"] for row in read_rows(of.file("replies.parquet"), REPLIES)}
        for label, of in answers.items()
    }
    together = [list(said)] if paired else [[label] for label in said]
    for number, (models, row) in enumerate(
        (models, row) for row in read_prompt_rows(prompts, "held_out") for models in together
    ):
        yield {
            "id": str(number),
            "prompt_id": row["id"],
            "kind": row["kind"],
            "category": row["risk_category"] or "",
            "safety": row["safety"],
            "turns": sum(message.role == "user" for message in dialog_from_json(row["dialog"])),
            "dialog": row["dialog"],
            "models": models,
            "answers": [said[model][row["id"]] for model in models],
        }


@task(name="verdicts", task_run_name="verdicts", cache_policy=NO_CACHE)
def verdicts(
    recipe: VerdictsRecipe, sheet: str, judges: Mapping[str, str], seed: int, runtime: Runtime
) -> str:
    """Have a sheet's pairs judged by a language model, or by reward models, domain -> artifact."""
    job = Job(f"verdicts by {recipe.judge.kind}", "verdicts", recipe, seed, {"sheet": sheet, **judges})
    return build(job, runtime)


@task(name="ratings", task_run_name="ratings {batch}", cache_policy=NO_CACHE)
def ratings(recipe: RatersRecipe, sheet: str, batch: str, runtime: Runtime) -> str:
    """Make people's ratings of a sheet, a frozen batch of the log, verdicts."""
    rows = read_table(find(sheet, runtime).file("sheet.parquet"), SHEET)
    rated = rated_rows(rows, preferences_folder(Store(runtime.store_root)), batch)
    content = sha256(repr([(row["id"], row["ratings"], row["said"]) for row in rated]).encode()).hexdigest()

    def work(directory: Path) -> dict[str, Any]:
        write_table(directory / "verdicts.parquet", rated, VERDICTS)
        return summary(rated) | {"agreement": agreement(rated)}

    recipe_ = VerdictsRecipe(judge=recipe)
    job = Job(
        "verdicts by people", "verdicts", recipe_, parents={"sheet": sheet}, inputs={"ratings": content}
    )
    return build(job, runtime, work)


def rated_rows(rows: Sequence[dict[str, Any]], folder: Path, batch: str) -> Rows:
    """Return a sheet's rows with what people have said of them."""
    given = defaultdict(list)
    for rating in read_ratings(folder, batch):
        given[rating.question].append(rating)
    made = []
    for row in rows:
        values = [rating.value for rating in given[row["id"]]]
        equal = len(row["answers"]) != len(set(row["answers"]))
        outcome = "tie" if equal else by_people(values, len(row["answers"]) == 2)
        detail = "equal answers" if equal else "" if values else "not rated"
        said = [rating.annotator for rating in given[row["id"]]]
        made.append(row | {"outcome": outcome, "detail": detail, "ratings": values, "said": said})
    return made
