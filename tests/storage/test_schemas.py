"""Tables come back as they were written, and what is no such table is refused by name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import schemas
from storage.errors import SourceError, StorageError
from storage.schemas import read_table, write_table

VALUES = {
    pa.string(): "größer",
    pa.int32(): 3,
    pa.float32(): 0.5,
    pa.bool_(): True,
    pa.list_(pa.string()): ["a", "b"],
}
NAMES = pa.schema({"name": pa.string()})
SCHEMAS = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}


def sample_row(schema: pa.Schema) -> dict[str, object]:
    return {field.name: VALUES[field.type] for field in schema}


def test_every_table_is_tested() -> None:
    assert set(SCHEMAS) >= {"DOCUMENTS", "DROPPED", "PROMPTS", "DEMONSTRATIONS"}
    assert set(SCHEMAS) >= {"COMPARISONS", "SAMPLES", "RESPONSES"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_rows_come_back_as_written(name: str, tmp_path: Path) -> None:
    rows = [sample_row(SCHEMAS[name])] * 3
    write_table(tmp_path / "table.parquet", rows, SCHEMAS[name])
    assert read_table(tmp_path / "table.parquet", SCHEMAS[name]) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_empty_table_keeps_its_columns(name: str, tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", [], SCHEMAS[name])
    assert read_table(tmp_path / "table.parquet", SCHEMAS[name]) == []
    assert pq.read_schema(tmp_path / "table.parquet").equals(SCHEMAS[name])


def test_tables_are_zstd(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", [sample_row(schemas.DOCUMENTS)], schemas.DOCUMENTS)
    column = pq.read_metadata(tmp_path / "table.parquet").row_group(0).column(0)
    assert column.compression == "ZSTD"


def test_a_failed_write_keeps_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    row = sample_row(schemas.DOCUMENTS)
    write_table(path, [row], schemas.DOCUMENTS)
    with pytest.raises((pa.ArrowException, StorageError)):
        write_table(path, [{**row, "text": 5}], schemas.DOCUMENTS)
    assert read_table(path, schemas.DOCUMENTS) == [row]
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


def test_what_is_no_such_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.parquet").write_text("not Parquet at all")
    with pytest.raises(SourceError, match=r"notes\.parquet"):
        read_table(tmp_path / "notes.parquet", schemas.DOCUMENTS)
    with pytest.raises(SourceError, match=r"absent\.parquet"):
        read_table(tmp_path / "absent.parquet", schemas.DOCUMENTS)
    write_table(tmp_path / "prompts.parquet", [sample_row(schemas.PROMPTS)], schemas.PROMPTS)
    with pytest.raises(SourceError, match="language_score"):
        read_table(tmp_path / "prompts.parquet", schemas.DOCUMENTS)


def test_a_table_is_written_in_row_groups_and_appears_at_the_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(schemas, "ROW_GROUP_ROWS", 4)
    path = tmp_path / "table.parquet"
    with schemas.TableWriter(path, NAMES) as table:
        for number in range(10):
            table.add({"name": str(number)})
            assert not path.exists()
    assert table.count == 10
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [row["name"] for row in read_table(path, NAMES)] == [str(number) for number in range(10)]


def test_a_table_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="row 1 has"),
        schemas.TableWriter(tmp_path / "t.parquet", NAMES) as table,
    ):
        table.add({"name": "a"})
        table.add({"title": "b"})
    assert list(tmp_path.iterdir()) == []
