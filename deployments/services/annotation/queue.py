"""Prompts that wait for annotators: those of the dialogs stage, or a file of one's own."""

import json
from pathlib import Path

from pydantic import ValidationError

from deployments.services.annotation.seat import Queued
from llama2_core.config import Record
from llama2_core.errors import DataError
from storage.artifacts import Store
from storage.preference_events import Domain, Turn
from tasks.tables import read_prompt_rows


class Line(Record):
    """A prompt in a file."""

    id: str = ""
    """By default the file's name and the line's number."""
    domain: Domain = "helpfulness"
    """Which guidelines hold."""
    prompt: str
    """The user's first message."""
    risk_category: str = ""
    """Of a safety prompt."""
    attack_vector: str = ""
    """Of a safety prompt."""


def read_queue(name: str, store: Store) -> list[Queued]:
    """Return the prompts of a `.jsonl` file or of a dialogs artifact. Raises DataError naming file and line."""
    if not name:
        return []
    if Path(name).is_file():
        return list(_lines(Path(name)))
    return [
        Queued(
            row["id"],
            row["kind"],
            "safety" if row["safety"] else "helpfulness",
            tuple(Turn.model_validate(turn) for turn in json.loads(row["dialog"])),
            row["risk_category"] or "",
            row["attack_vector"] or "",
        )
        for row in read_prompt_rows(store.resolve(name).path, "train")
    ]


def _lines(path: Path):
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = Line.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(f"{path}:{number}: {where}: {first['msg']}") from error
        yield Queued(
            line.id or f"{path.stem}-{number}",
            "queued",
            line.domain,
            (Turn(role="user", content=line.prompt),),
            line.risk_category,
            line.attack_vector,
        )
