"""Parquet: a part is a stretch of row groups, read in small batches whatever the size of a row group."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from storage.sources.documents import Fields, Part, Quarantined, RawDocument, Unreadable
from storage.sources.places import BUFFER_BYTES, is_damage, open_bytes

BATCH_BYTES, BATCH_ROWS = 8 << 20, 256
"""How much is decoded at a time, about; texts that repeat take less in the file than the bytes counted on."""


def row_group_cuts(file: str, part_bytes: int) -> list[tuple[int, int]]:
    """Return (first row group, its bytes uncompressed) of stretches of about part_bytes, at least a row group each.

    A file without a legible footer is one stretch: reading it says why.
    """
    try:
        with open_bytes(file) as stream:
            metadata = pq.read_metadata(stream)
    except Exception as error:
        if not is_damage(error):
            raise
        return [(0, 0)]
    cuts: list[tuple[int, int]] = []
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if cuts and cuts[-1][1] + size <= part_bytes:
            cuts[-1] = (cuts[-1][0], cuts[-1][1] + size)
        else:
            cuts.append((group, size))
    return cuts or [(0, 0)]


def read_rows(part: Part, stream: BinaryIO, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    """Yield a document a row; its id ends in the number of the row in the file, from 0."""
    file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
    names = file.schema_arrow.names
    if fields.text not in names:
        detail = f'no column named "{fields.text}"; the columns are {", ".join(names)}'
        yield Unreadable("no text", detail).at(part.name)
        return
    columns = [name for name in (fields.text, fields.url) if name in names]
    first = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
    for group in range(part.start, file.num_row_groups if part.end is None else part.end):
        number = first
        try:
            for row in _rows(file, group, columns):
                yield fields.document(f"{part.name}:{number}", row)
                number += 1
        except Exception as error:
            if not is_damage(error):
                raise
            yield Unreadable("damaged", f"row group {group} is left: {error}").at(f"{part.name}:{number}")
        first += file.metadata.row_group(group).num_rows


def _rows(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    metadata = file.metadata.row_group(group)
    rows = BATCH_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)
    size = min(max(1, rows), BATCH_ROWS)
    for batch in file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
        undecoded = {name: _undecoded(batch.column(name)) for name in batch.schema.names}
        yield from pa.record_batch(undecoded).to_pylist()


def _undecoded(column: pa.Array) -> pa.Array:
    """Return strings as bytes: not all writers of Parquet check that theirs are UTF-8."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    is_text = column.type in (pa.string(), pa.large_string(), pa.string_view())
    return column.cast(pa.large_binary()) if is_text else column
