"""A user's own prompts, single or the end of a dialog: .jsonl or .parquet, where the first bad row is an error."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError, model_validator

from storage.errors import SourceError
from storage.preference_events import Domain, Id, Record, Turn, check_turns
from storage.sources.files import numbered
from storage.sources.lines import json_object


class OwnPrompt(Record):
    """A row: `prompt`, or `messages` that end with the user's; the rest may be left out."""

    id: Id = ""
    """By default the file's name and the row's number."""
    prompt: str = ""
    """The user's only message."""
    messages: tuple[Turn, ...] = ()
    """A dialog up to the message that is answered."""
    kind: str = "own"
    """What reports are broken down by: factual, creative, ..."""
    domain: Domain = "helpfulness"
    """Which guidelines, and which reward model, hold."""
    risk_category: str = ""
    """Of a safety prompt."""
    attack_vector: str = ""
    """Of a safety prompt."""

    @model_validator(mode="after")
    def _is_asked(self) -> Self:
        if bool(self.prompt.strip()) == bool(self.messages):
            raise ValueError("give either a prompt or messages")
        check_turns(self.turns)
        return self

    @property
    def turns(self) -> tuple[Turn, ...]:
        return self.messages or (Turn(role="user", content=self.prompt),)


def read_prompt_file(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file as those of a held-out split. Raises SourceError naming file and row."""
    if not file.is_file():
        raise SourceError(f"{file}: no such file")
    found: dict[str, dict[str, Any]] = {}
    for number, (place, row) in enumerate(_rows(file), 1):
        try:
            prompt = OwnPrompt.model_validate(
                {name: value for name, value in row.items() if value is not None}
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SourceError(f"{place}: {where + ': ' if where else ''}{first['msg']}") from None
        name = prompt.id or f"{file.stem.replace(' ', '-')}-{number}"
        if name in found:
            raise SourceError(f"{place}: the id {name!r} is there twice")
        found[name] = _stored(name, prompt)
    if not found:
        raise SourceError(f"{file}: there is no prompt in it")
    return list(found.values())


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix != ".parquet":
        yield from numbered(file, json_object)
        return
    try:
        rows = pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{file} cannot be read as Parquet: {error}") from error
    yield from ((f"{file.name}, row {number}", row) for number, row in enumerate(rows, 1))


def _stored(name: str, prompt: OwnPrompt) -> dict[str, Any]:
    about = {"category": prompt.risk_category, "attack": prompt.attack_vector}
    return {
        "id": name,
        "split": "held_out",
        "kind": prompt.kind,
        "safety": prompt.domain == "safety",
        "risk_category": prompt.risk_category,
        "attack_vector": prompt.attack_vector,
        "dialog": json.dumps([turn.model_dump() for turn in prompt.turns], ensure_ascii=False),
        "facts": json.dumps(about, ensure_ascii=False),
    }
