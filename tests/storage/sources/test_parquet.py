import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.sources.documents import Quarantined, RawDocument


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
)
def test_every_kind_of_string(tmp_path, kind, survey):
    texts = pa.array([b"one", "zwei äö".encode(), None], pa.binary())
    column = texts.cast(pa.string()).cast(kind) if kind != pa.binary() else texts
    pq.write_table(pa.table({"text": column, "url": ["http://1", None, ""]}), tmp_path / "a.parquet")
    *documents, bad = survey(tmp_path)
    assert documents == [RawDocument("a.parquet:0", "one", "http://1"), RawDocument("a.parquet:1", "zwei äö")]
    assert (bad.place, bad.reason) == ("a.parquet:2", "no text")


def test_a_string_that_is_not_utf8(tmp_path, survey):
    raw = pa.array([b"good", b"caf\xe9", b"last"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())  # as writers do that do not check
    pq.write_table(pa.table({"text": text, "url": text}), tmp_path / "a.parquet")
    first, bad, last = survey(tmp_path)
    assert (first.text, last.text) == ("good", "last")
    assert (bad.place, bad.reason) == ("a.parquet:1", "not UTF-8")


@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]], [{"text": "a"}] * 2])
def test_a_column_of_something_else(tmp_path, values, survey):
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert [(item.place, item.reason) for item in survey(tmp_path)] == [
        ("a.parquet:0", "no text"),
        ("a.parquet:1", "no text"),
    ]


def test_a_missing_column(tmp_path, survey):
    pq.write_table(pa.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet")
    detail = 'no column named "text"; the columns are body, n'
    assert survey(tmp_path) == [Quarantined("a.parquet", "no text", detail)]


@pytest.mark.parametrize("part_bytes", [1, 1 << 20])
def test_a_damaged_row_group_costs_itself_only(tmp_path, part_bytes, survey):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" * 50 for i in range(300)]}), file, row_group_size=100)
    column = pq.read_metadata(file).row_group(1).column(0)
    data = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(data)
    items = survey(file, part_bytes)
    good = [item.id for item in items if isinstance(item, RawDocument)]
    assert good == [f"a.parquet:{i}" for i in [*range(100), *range(200, 300)]]
    [bad] = [item for item in items if isinstance(item, Quarantined)]
    assert (bad.place, bad.reason) == ("a.parquet:100", "damaged")
    assert bad.detail.startswith("row group 1 is left: ")


@pytest.mark.parametrize("size", [10, 1000])
def test_no_parquet_at_all(tmp_path, size, survey):
    (tmp_path / "a.parquet").write_bytes(b"x" * size)
    [bad] = survey(tmp_path, 1)
    assert (bad.place, bad.reason) == ("a.parquet", "damaged")


def test_no_rows(tmp_path, survey):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert [item.reason for item in survey(tmp_path)] == ["empty"]
