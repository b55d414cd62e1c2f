"""Token shards: Parquet files of fixed-length rows, written once, read by row number."""

from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.disk import atomic_path
from storage.errors import SourceError

ROW_GROUP = 1024
CACHE_BYTES = 256 << 20


def write_shards(
    directory: Path, name: str, rows: Iterable[np.ndarray], row_tokens: int, rows_per_shard: int = 65536
) -> int:
    """Write rows int [row_tokens] as NAME-00000.parquet and on; return how many rows there were."""
    total = 0
    schema = pa.schema({"tokens": pa.list_(pa.int32(), row_tokens)})
    stream = iter(rows)
    chunks = iter(lambda: list(islice(stream, rows_per_shard)), [])
    for index, chunk in enumerate(chunks):
        flat = pa.array(np.concatenate(chunk).astype(np.int32))
        column = pa.FixedSizeListArray.from_arrays(flat, row_tokens)
        with atomic_path(directory / f"{name}-{index:05d}.parquet") as temporary:
            table = pa.Table.from_arrays([column], schema=schema)
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)
        total += len(chunk)
    return total


class TokenShards:
    """Random access to the rows of all shards of one name, in order."""

    def __init__(self, directory: Path, name: str, cache_bytes: int = CACHE_BYTES) -> None:
        """Open the shards; `cache_bytes` bounds the decoded rows kept in memory.

        Raises SourceError naming the first shard that is missing or unreadable.
        """
        paths = sorted(directory.glob(f"{name}-*.parquet"))
        if not paths:
            raise SourceError(f"{directory} holds no {name}-*.parquet shards. Run the tokens stage.")
        for index, path in enumerate(paths):
            expected = directory / f"{name}-{index:05d}.parquet"
            if path != expected:
                raise SourceError(f"{expected} is missing. Build the tokens artifact again.")
        self._files = [_open(path) for path in paths]
        groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.num_row_groups)
        ]
        self._groups = [(file, group) for file, group, _ in groups]
        self._starts = np.cumsum([0, *(rows for _, _, rows in groups)])
        row_bytes = 4 * self._files[0].schema_arrow.field("tokens").type.list_size
        self._read = lru_cache(maxsize=max(1, cache_bytes // (ROW_GROUP * row_bytes)))(self._read_group)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at the indices, int64 [n, row_tokens]."""
        groups = np.searchsorted(self._starts, indices, side="right") - 1
        picked = [
            self._read(int(group))[index - self._starts[group]]
            for group, index in zip(groups, indices, strict=True)
        ]
        return np.stack(picked).astype(np.int64)

    def _read_group(self, index: int) -> np.ndarray:
        file, group = self._groups[index]
        column = file.read_row_group(group).column(0).combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1)


def _open(path: Path) -> pq.ParquetFile:
    """Open a shard. Raises SourceError naming it when it is not Parquet."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}. Build it again.") from error
