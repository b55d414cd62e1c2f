"""A user's own prompts, from JSON lines and Parquet: dialogs of one turn and of several, and what is wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import SourceError
from storage.schemas import PROMPTS, write_table
from storage.sources.prompts import read_prompt_file

TALK = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat"},
    {"role": "user", "content": "where?"},
]
ROWS = [
    {"prompt": "the dog", "kind": "factual"},
    {"id": "mine", "messages": TALK, "domain": "safety", "risk_category": "theft"},
]


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    lines, table = tmp_path / "my prompts.jsonl", tmp_path / "my prompts.parquet"
    lines.write_text("\n\n".join(map(json.dumps, ROWS)))
    pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(ROWS[1] | ROWS[0]), **row} for row in ROWS]), table)
    rows = read_prompt_file(lines)
    assert rows == read_prompt_file(table)
    assert [row["id"] for row in rows] == ["my-prompts-1", "mine"]
    assert [(row["kind"], row["safety"], row["risk_category"]) for row in rows] == [
        ("factual", False, ""),
        ("own", True, "theft"),
    ]
    assert json.loads(rows[0]["dialog"]) == [{"role": "user", "content": "the dog"}]
    assert json.loads(rows[1]["dialog"]) == TALK
    write_table(tmp_path / "prompts.parquet", rows, PROMPTS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": " "}', r":2: Value error, give either a prompt or messages"),
        ('{"prompt": "a", "text": "b"}', r":2: text: Extra inputs"),
        (json.dumps({"messages": TALK[:2]}), r":2: Value error, dialog: must end with a turn of the user"),
        (json.dumps({"messages": TALK[1:]}), r":2: Value error, dialog: turn 1 is by assistant"),
        ('{"prompt": "a", "id": "x"}', r":2: the id 'x' is there twice"),
        ("{", r":2: not JSON"),
    ],
)
def test_the_first_bad_row_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "id": "x"}\n' + line)
    with pytest.raises(SourceError, match=message):
        read_prompt_file(file)


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_prompt_file(tmp_path / "none.jsonl")
    for name, message in (("a.jsonl", "no prompt in it"), ("a.parquet", "cannot be read as Parquet")):
        (tmp_path / name).write_text("\n")
        with pytest.raises(SourceError, match=message):
            read_prompt_file(tmp_path / name)
