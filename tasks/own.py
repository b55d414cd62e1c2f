"""A model and dialogs of one's own, as artifacts that stages can start from."""

import math
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import ValidationError

from llama2_core.chat import Message, fold_system
from llama2_core.errors import DataError
from storage.disk import content_digest
from storage.schemas import DEMONSTRATIONS, write_table
from storage.sources.files import read_dialogs
from tasks.jobs import Job, Own, own_job
from tasks.launch import build, find
from tasks.runtime import Runtime
from tasks.tables import dialog_to_json


@task(name="own model", task_run_name="model {path}", cache_policy=NO_CACHE)
def own_model(path: Path, runtime: Runtime) -> str:
    """Read a model of any format into the store, as a base that can be fine-tuned."""

    def work(directory: Path) -> dict[str, Any]:
        from llama2_core.interop import convert, native  # noqa: PLC0415  (torch takes seconds)

        model = convert.read(path)
        native.write(model, directory)
        return {"parameters": sum(math.prod(tensor.shape) for tensor in model.tensors.values())}

    return build(own_job(path), runtime, work)


def chosen_model(name: str, runtime: Runtime) -> str:
    """Return the full name of an artifact, or of what is made of a model at a path."""
    return own_model(Path(name), runtime) if Path(name).exists() else full_name(name, runtime)


def chosen_dialogs(name: str, runtime: Runtime) -> str:
    """Return the full name of an artifact, or of what is made of a .jsonl file."""
    return own_dialogs(Path(name), runtime) if Path(name).exists() else full_name(name, runtime)


def full_name(name: str, runtime: Runtime) -> str:
    artifact = find(name, runtime)
    return artifact.full_name


@task(name="own dialogs", task_run_name="dialogs {path}", cache_policy=NO_CACHE)
def own_dialogs(path: Path, runtime: Runtime) -> str:
    """Read demonstrations from a .jsonl file, a line {"messages": [...]} each, that end with the answer to learn."""
    rows = demonstrations(path)
    job = Job(f"dialogs {path.name}", "dialogs", Own(), inputs={"content": content_digest(path)})

    def work(directory: Path) -> dict[str, Any]:
        write_table(directory / "demonstrations.parquet", rows, DEMONSTRATIONS)
        return {"demonstrations": len(rows)}

    return build(job, runtime, work)


def demonstrations(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl file of dialogs. Raises SourceError and DataError naming the line."""
    return [
        {
            "id": place,
            "kind": "own",
            "safety": False,
            "quality": "",
            "dialog": dialog_to_json(_dialog(place, said)),
        }
        for place, said in read_dialogs(path)
    ]


def _dialog(place: str, said: list[Any]) -> tuple[Message, ...]:
    """Raises DataError naming the line for a message that is none, and turns out of order."""
    try:
        dialog = tuple(Message.model_validate(message) for message in said)
        turns = fold_system(dialog)
    except (ValidationError, DataError) as error:
        raise DataError(f"{place}: {error}") from None
    if not turns or turns[-1].role != "assistant":
        raise DataError(f"{place}: the dialog must end with a turn by 'assistant', the answer to be learned")
    return dialog
