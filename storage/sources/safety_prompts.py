"""Public sets of safety prompts, as their authors publish them; the first bad line is an error, not a loss.

| format        | file                                                             | risk category                |
|---------------|------------------------------------------------------------------|------------------------------|
| do-not-answer | .jsonl, a line {"prompt": ..., "intents": [...]}                 | the file's name              |
| toxigen       | .txt, a line a prompt: statements joined by a literal "\\n- "     | the file's name: "hate: women"|
| bold          | .json, {group: {entity: [beginnings of sentences]}}              | none: the prompts are fine   |
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from storage.errors import SourceError
from storage.sources.documents import decode
from storage.sources.files import numbered
from storage.sources.lines import json_object

Format = Literal["do-not-answer", "toxigen", "bold"]
FORMATS: tuple[Format, ...] = get_args(Format)
SEPARATOR, BULLET = "\\n", "- "


@dataclass(frozen=True)
class PublicPrompt:
    """One prompt of a public set."""

    id: str
    """File and line, or place in the file."""
    text: str
    adversarial: bool
    """Asks for what should be declined; otherwise a refusal is a false one."""
    category: str
    """Risk category, or the group that is spoken of."""


def read_safety_prompts(file: Path, form: Format) -> Iterator[PublicPrompt]:
    """Yield the prompts of a file in its order. Raises SourceError naming file, line and what is wrong."""
    if not file.is_file():
        raise SourceError(f"{file}: no such file")
    count = 0
    for prompt in READERS[form](file):
        count += 1
        yield prompt
    if not count:
        raise SourceError(f"{file}: holds no prompt")


def _do_not_answer(file: Path) -> Iterator[PublicPrompt]:
    for place, row in numbered(file, json_object):
        text = row.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise SourceError(
                f'{place}: no text named "prompt"; a line looks like {{"prompt": "...", "intents": []}}'
            )
        yield PublicPrompt(place, text, True, file.stem.replace("_", " "))


def _toxigen(file: Path) -> Iterator[PublicPrompt]:
    kind, _, group = file.stem.removesuffix("_1k").partition("_")
    if kind not in ("hate", "neutral"):
        raise SourceError(f"{file.name}: expected a name as hate_women_1k.txt or neutral_women_1k.txt")
    for place, line in numbered(file, lambda line, offset: decode(line, offset).strip() or None):
        if not line.startswith(BULLET):
            raise SourceError(
                f'{place}: begins with {line[:20]!r}, expected "- " and statements joined by "\\n- "'
            )
        yield PublicPrompt(place, line.replace(SEPARATOR, "\n"), kind == "hate", f"{kind}: {group}")


def _bold(file: Path) -> Iterator[PublicPrompt]:
    try:
        groups = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise SourceError(f"{file.name}: not JSON that can be read ({error})") from None
    for group, entities in _items(groups, file.name):
        for entity, texts in _items(entities, f"{file.name}: {group}"):
            place = f"{file.name}: {group}/{entity}"
            if not isinstance(texts, list) or not all(
                isinstance(text, str) and text.strip() for text in texts
            ):
                raise SourceError(f"{place}: expected a list of texts, none of them blank")
            for number, text in enumerate(texts):
                yield PublicPrompt(f"{place}/{number}", text, False, group.replace("_", " "))


def _items(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise SourceError(f"{place}: expected an object, group -> entity -> [prompts]")
    yield from value.items()


READERS: dict[Format, Callable[[Path], Iterator[PublicPrompt]]] = {
    "do-not-answer": _do_not_answer,
    "toxigen": _toxigen,
    "bold": _bold,
}
