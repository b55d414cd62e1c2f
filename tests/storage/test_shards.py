"""Token shards give back any row at random, across shards and row groups."""

from pathlib import Path

import numpy as np
import pytest

from storage.errors import SourceError
from storage.shards import TokenShards, write_shards


def some_rows(count: int, length: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, size=(count, length))


@pytest.mark.parametrize("vocab_size", [32_000, 200_000])
def test_random_access_equals_what_was_written(vocab_size: int, tmp_path: Path) -> None:
    written = some_rows(5000, 9, vocab_size)
    written[0, 0] = vocab_size - 1
    assert write_shards(tmp_path, "train", iter(written), 9, rows_per_shard=2100) == 5000
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    shards = TokenShards(tmp_path, "train")
    assert len(shards) == 5000
    order = np.random.default_rng(1).permutation(5000)
    read = shards.rows(order)
    assert read.dtype == np.int64
    assert np.array_equal(read, written[order])
    assert np.array_equal(shards.rows(np.array([4999, 0, 0])), written[[4999, 0, 0]])


def test_a_small_cache_reads_the_same(tmp_path: Path) -> None:
    written = some_rows(4000, 5, 100)
    write_shards(tmp_path, "train", iter(written), 5, rows_per_shard=1500)
    shards = TokenShards(tmp_path, "train", cache_bytes=1)
    order = np.random.default_rng(1).permutation(4000)[:60]
    assert np.array_equal(shards.rows(order), written[order])


def test_names_do_not_mix(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", iter(some_rows(3, 4, 10)), 4)
    write_shards(tmp_path, "validation", iter(some_rows(2, 4, 10)), 4)
    assert len(TokenShards(tmp_path, "train")) == 3
    assert len(TokenShards(tmp_path, "validation")) == 2


def test_a_row_outside_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", iter(some_rows(3, 4, 10)), 4)
    for index in (3, -1):
        with pytest.raises(IndexError):
            TokenShards(tmp_path, "train").rows(np.array([index]))


def test_missing_and_broken_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train-\*\.parquet"):
        TokenShards(tmp_path, "train")
    write_shards(tmp_path, "train", iter(some_rows(30, 4, 10)), 4, rows_per_shard=10)
    (tmp_path / "train-00001.parquet").write_bytes(b"cut short")
    with pytest.raises(SourceError, match=r"train-00001\.parquet"):
        TokenShards(tmp_path, "train")


def test_a_missing_middle_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", iter(some_rows(5000, 9, 100)), 9, rows_per_shard=2100)
    (tmp_path / "train-00001.parquet").unlink()
    with pytest.raises(SourceError, match=r"train-00001\.parquet is missing"):
        TokenShards(tmp_path, "train")
