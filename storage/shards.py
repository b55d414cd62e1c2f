"""Token shards: Parquet files of fixed-length rows, written once, read by row number.

A row is `tokens` [row_tokens], the number of its `source`, and `begins`: the places in it where a document begins.
A shard's footer says what it holds and the SHA-256 of that; pages carry checksums that every read compares.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.disk import atomic_path
from storage.errors import SourceError

GROUP_BYTES = 256 << 10
"""Of a row group, which is what reading one row costs."""
CACHE_BYTES = 256 << 20
ABOUT = b"llama2"


class ShardWriter:
    """Writes one shard, in a file that appears whole or not at all. Raises DiskFull."""

    def __init__(self, path: Path, row_tokens: int, vocab_size: int, source: int = 0) -> None:
        kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        self.path, self.row_tokens, self.source, self.kind = path, row_tokens, source, kind
        self.rows = 0
        self.about: dict[str, Any] = {}
        self._group = max(1, GROUP_BYTES // (row_tokens * kind().itemsize))
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        self._appearing = atomic_path(self.path)
        self._file = pq.ParquetWriter(
            self._appearing.__enter__(),
            _schema(self.row_tokens, self.kind),
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        )
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush(1)
            facts = {"rows": self.rows, "sha256": self._digest.hexdigest(), **self.about}
            self._file.add_key_value_metadata({ABOUT: json.dumps(facts)})
        self._file.close()
        self._appearing.__exit__(*error)

    def add(self, tokens: np.ndarray, begins: np.ndarray) -> None:
        """Append rows: ints [N, row_tokens], and bool [N, row_tokens] where a document begins."""
        self._waiting.append((tokens.astype(self.kind), begins))
        self.rows += len(tokens)
        if sum(len(rows) for rows, _ in self._waiting) >= self._group:
            self._flush(self._group)

    def _flush(self, least: int) -> None:
        """Write whole row groups while `least` rows wait."""
        if not self._waiting:
            return
        tokens, begins = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
        while len(tokens) >= least:
            self._write(tokens[: self._group], begins[: self._group])
            tokens, begins = tokens[self._group :], begins[self._group :]
        self._waiting = [(tokens, begins)]

    def _write(self, tokens: np.ndarray, begins: np.ndarray) -> None:
        self._digest.update(tokens.astype("<u4").tobytes() + np.packbits(begins).tobytes())
        offsets = np.concatenate([[0], np.cumsum(begins.sum(axis=1))]).astype(np.int32)
        places = np.nonzero(begins)[1].astype(np.uint16 if self.row_tokens <= 1 << 16 else np.uint32)
        columns = [
            pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), self.row_tokens),
            pa.array(np.full(len(tokens), self.source, dtype=np.uint16)),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(places)),
        ]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._file.schema))


def _schema(row_tokens: int, kind: Any) -> pa.Schema:
    place = pa.uint16() if row_tokens <= 1 << 16 else pa.uint32()
    fields = {"tokens": pa.list_(pa.from_numpy_dtype(kind), row_tokens), "source": pa.uint16()}
    return pa.schema({**fields, "begins": pa.list_(place)})


class TokenShards:
    """Random access to the rows of all shards of one name, in order."""

    def __init__(self, directory: Path, name: str, cache_bytes: int = CACHE_BYTES) -> None:
        """Open the shards' footers; `cache_bytes` bounds the decoded rows kept in memory.

        Raises SourceError naming the first shard that is missing or unreadable.
        """
        paths = sorted(directory.glob(f"{name}-*.parquet"))
        if not paths:
            raise SourceError(f"{directory} holds no {name}-*.parquet shards. Run the tokens stage.")
        for index, path in enumerate(paths):
            expected = directory / f"{name}-{index:05d}.parquet"
            if path != expected:
                raise SourceError(f"{expected} is missing. Build the tokens artifact again.")
        self.paths = paths
        self.about: list[Mapping[str, Any]] = []
        self._groups: list[tuple[int, int]] = []
        sizes = [0]
        for number, path in enumerate(paths):
            footer = _open(path).metadata
            self.about.append(json.loads((footer.metadata or {}).get(ABOUT, b"{}")))
            self._groups += [(number, group) for group in range(footer.num_row_groups)]
            sizes += [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self._starts = np.cumsum(sizes)
        self._file = lru_cache(maxsize=64)(lambda number: _open(paths[number]))
        groups = max(1, cache_bytes // GROUP_BYTES)
        self._read = lru_cache(maxsize=groups)(self._read_group)
        self._read_begins = lru_cache(maxsize=groups)(self._read_group_begins)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what every shard's footer says that it holds: other tokens, another fingerprint."""
        held = json.dumps([(path.name, about) for path, about in zip(self.paths, self.about, strict=True)])
        return hashlib.sha256(held.encode()).hexdigest()

    @property
    def sources(self) -> list[str]:
        """Names of the sources that rows come from, in order."""
        return list(dict.fromkeys(about["source"] for about in self.about if "source" in about))

    def source_numbers(self, indices: np.ndarray, names: list[str]) -> np.ndarray:
        """Return the place of each row's source in `names`, int64 [N]."""
        by_shard = np.array([names.index(about["source"]) for about in self.about])
        groups = np.searchsorted(self._starts, indices, side="right") - 1
        return by_shard[[self._groups[group][0] for group in groups]]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at the indices, int64 [N, row_tokens]. Raises SourceError for a damaged page."""
        return self._pick(indices, self._read).astype(np.int64)

    def begins(self, indices: np.ndarray) -> np.ndarray:
        """Return where documents begin in the rows at the indices, bool [N, row_tokens]."""
        return self._pick(indices, self._read_begins)

    def _pick(self, indices: np.ndarray, read: Callable[[int], np.ndarray]) -> np.ndarray:
        groups = np.searchsorted(self._starts, indices, side="right") - 1
        places = indices - self._starts[groups]
        return np.stack([read(int(group))[place] for group, place in zip(groups, places, strict=True)])

    def _read_group(self, index: int) -> np.ndarray:
        column = self._column(index, "tokens")
        return column.flatten().to_numpy().reshape(len(column), -1)

    def _read_group_begins(self, index: int) -> np.ndarray:
        column = self._column(index, "begins")
        begins = np.zeros((len(column), self._read(index).shape[1]), dtype=bool)
        rows = np.repeat(np.arange(len(column)), column.value_lengths().to_numpy())
        begins[rows, column.flatten().to_numpy()] = True
        return begins

    def _column(self, index: int, name: str) -> Any:
        number, group = self._groups[index]
        try:
            return self._file(number).read_row_group(group, columns=[name]).column(0).combine_chunks()
        except (OSError, pa.ArrowInvalid) as error:
            raise SourceError(
                f"{self.paths[number]}, row group {group}, is damaged: {error}. Build it again."
            ) from error


def _open(path: Path) -> pq.ParquetFile:
    """Open a shard. Raises SourceError naming it when it is not Parquet."""
    try:
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}. Build it again.") from error
