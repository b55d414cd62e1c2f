"""Every table the pipeline stores, as Arrow schemas. Dialogs and facts are JSON text."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from storage.disk import atomic_path
from storage.errors import SourceError

ROW_GROUP_BYTES, ROW_GROUP_ROWS = 16 << 20, 1 << 16
_TEXT, _COUNT, _SCORE, _FLAG = pa.string(), pa.int32(), pa.float32(), pa.bool_()

_TEXTS = pa.list_(_TEXT)

DOCUMENTS = pa.schema(
    {
        "id": _TEXT,
        "source": _TEXT,
        "text": _TEXT,
        "language": _TEXT,
        "language_score": _SCORE,
        "url": _TEXT,
        "changes": _TEXTS,  # what steps altered, once for each
        "contamination": _TEXTS,  # benchmark samples that the text repeats
        "toxicity": _SCORE,  # mean of its lines, null if not measured
        "pronouns": _TEXTS,
        "identities": _TEXTS,  # axis/term
    }
)
DROPPED = pa.schema(
    {
        "id": _TEXT,
        "source": _TEXT,
        "reason": _TEXT,
        "step": _TEXT,
        "detail": _TEXT,
        "kept_id": _TEXT,  # of the document that stays for a duplicate, else null
        "similarity": _SCORE,  # to it
        "text": _TEXT,
    }
)
QUARANTINED = pa.schema({"source": _TEXT, "place": _TEXT, "reason": _TEXT, "detail": _TEXT})
PROMPTS = pa.schema(
    {
        "id": _TEXT,
        "split": _TEXT,  # train | held_out
        "kind": _TEXT,  # problem | definition | conversation | unsafe | borderline; harmless in public sets
        "safety": _FLAG,
        "risk_category": _TEXT,
        "attack_vector": _TEXT,
        "dialog": _TEXT,
        "facts": _TEXT,  # what the simulated annotator knows of the right answer
    }
)
DEMONSTRATIONS = pa.schema({"id": _TEXT, "kind": _TEXT, "safety": _FLAG, "quality": _TEXT, "dialog": _TEXT})
COMPARISONS = pa.schema(
    {
        "id": _TEXT,
        "prompt_id": _TEXT,
        "batch": _TEXT,
        "kind": _TEXT,
        "safety": _FLAG,
        "dialog": _TEXT,
        "chosen": _TEXT,
        "rejected": _TEXT,
        "chosen_model": _TEXT,
        "rejected_model": _TEXT,
        "chosen_temperature": _SCORE,
        "rejected_temperature": _SCORE,
        "grade": _TEXT,  # null in imports that have none
        "safety_bin": _TEXT,  # "" where the prompt is not a safety prompt, or safety was not asked for
        "chosen_safe": _FLAG,  # null where nobody was asked, as rejected_safe
        "rejected_safe": _FLAG,
        "annotator": _TEXT,
        "annotator_kind": _TEXT,  # person | simulated | judge | import
        "annotations": _COUNT,  # how many annotators the choice is the majority of
        "risk_category": _TEXT,
        "attack_vector": _TEXT,
        "created_at": _TEXT,  # ISO 8601; null where the same inputs must give the same file
        "turns": _COUNT,  # of the user
        "unit": _TEXT,  # of the lengths: words, or tokens of a tokenizer
        "prompt_length": _COUNT,  # the user's turns together
        "dialog_length": _COUNT,
        "chosen_length": _COUNT,
        "rejected_length": _COUNT,
        "held_out": _FLAG,
    }
)
SAMPLES = pa.schema(
    {
        "prompt_id": _TEXT,
        "sample": _COUNT,
        "kind": _TEXT,
        "tagged": _FLAG,  # a safety prompt
        "dialog": _TEXT,
        "temperature": _SCORE,
        "response": _TEXT,
        "helpfulness": _SCORE,  # sigmoid of the raw score, as safety and reward
        "safety": _SCORE,
        "reward": _SCORE,
        "selected": _FLAG,
        "origin": _TEXT,  # digest of the earlier samples that it was drawn for; null where it was drawn for these
    }
)
RESPONSES = pa.schema(
    {
        "suite": _TEXT,
        "prompt_id": _TEXT,
        "kind": _TEXT,
        "prompt": _TEXT,
        "response": _TEXT,
        "correct": _FLAG,
        "score": _SCORE,  # the simulated annotator's, without its noise
        "unsafe": _FLAG,
        "refused": _FLAG,
    }
)
GHOST = pa.schema(  # what Ghost Attention learns from
    {
        "id": _TEXT,
        "constraints": _TEXTS,  # kind/value
        "shortened": _FLAG,  # the instruction, in the dialog
        "turns": _COUNT,  # of the user
        "obeyed": _FLAG,  # by the last answer, the one that is learned
        "dialog": _TEXT,  # with the instruction in the first turn
    }
)
RETENTION = pa.schema(
    {
        "dialog": _COUNT,
        "turn": _COUNT,  # from 1
        "constraints": _TEXTS,  # kind/value
        "kept": _TEXTS,  # those that the answer keeps to
        "obeyed": _FLAG,  # all are
        "asked": _TEXT,  # without the instruction
        "response": _TEXT,
    }
)
DATED = pa.schema(
    {
        "event": _TEXT,
        "event_date": _TEXT,
        "stated_date": _TEXT,
        "question": _TEXT,
        "response": _TEXT,
        "happened": _FLAG,  # by the stated date
        "told": _FLAG,  # the answer holds the event's year
    }
)


class TableWriter:
    """Rows as zstd Parquet, in a file that appears whole or not at all; only one row group is held.

    Raises DiskFull, ValueError for a row of other columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.count = path, schema, 0
        self._columns = set(schema.names)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(pq.ParquetWriter(temporary, self.schema, compression="zstd"))
            stack.push(self._flush_unless_failed)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, row: dict[str, Any]) -> None:
        if row.keys() != self._columns:
            raise ValueError(
                f"{self.path.name}: row {self.count} has {sorted(row)}, expected {sorted(self._columns)}"
            )
        self._rows.append(row)
        self.count += 1
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, str | bytes | list))
        if self._bytes > ROW_GROUP_BYTES or len(self._rows) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._rows, self._bytes = [], 0

    def _flush_unless_failed(self, kind: Any, *_: Any) -> None:
        if kind is None and (self._rows or not self.count):
            self._flush()


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as `TableWriter` does."""
    with TableWriter(path, schema) as table:
        for row in rows:
            table.add(row)


def read_table(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """Read a table back as rows. Raises SourceError naming the file when it is not such a table."""
    return list(read_rows(path, schema))


def read_rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, a row group at a time. Raises as `read_table`."""
    try:
        with pq.ParquetFile(path) as file:
            missing = set(schema.names) - set(file.schema_arrow.names)
            if missing:
                raise SourceError(f"{path} lacks the columns {sorted(missing)}. Build it again.")
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}. Build it again.") from error
