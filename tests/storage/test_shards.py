"""Token shards give back any row at random, across shards and row groups, and notice what changed."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage import shards as shards_module
from storage.errors import SourceError
from storage.shards import ShardWriter, TokenShards


def some_rows(count: int, length: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, size=(count, length))


def write(directory: Path, rows: np.ndarray, vocab_size: int, cuts: list[int], name: str = "train") -> None:
    for number, part in enumerate(np.split(rows, cuts)):
        path = directory / f"{name}-{number:05d}.parquet"
        with ShardWriter(path, rows.shape[1], vocab_size, number) as shard:
            for few in np.array_split(part, 7):
                shard.add(few, few % 5 == 0)
            shard.about = {"source": f"s{number}"}


@pytest.mark.parametrize(("vocab_size", "kind"), [(32_000, "uint16"), (200_000, "uint32")])
def test_random_access_equals_what_was_written(
    vocab_size: int, kind: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(shards_module, "GROUP_BYTES", 4096)
    written = some_rows(5000, 9, vocab_size)
    written[0, 0] = vocab_size - 1
    write(tmp_path, written, vocab_size, [2100, 4200])
    shards = TokenShards(tmp_path, "train")
    assert len(shards) == 5000
    assert [about["rows"] for about in shards.about] == [2100, 2100, 800]
    order = np.random.default_rng(1).permutation(5000)
    read = shards.rows(order)
    assert read.dtype == np.int64
    assert np.array_equal(read, written[order])
    assert np.array_equal(shards.rows(np.array([4999, 0, 0])), written[[4999, 0, 0]])
    small = TokenShards(tmp_path, "train", cache_bytes=1)
    assert np.array_equal(small.rows(order[:60]), written[order[:60]])
    stored = pq.read_table(tmp_path / "train-00001.parquet")
    assert str(stored.schema.field("tokens").type.value_type) == kind
    assert set(stored["source"].to_pylist()) == {1}
    assert stored["begins"][3].as_py() == np.flatnonzero(written[2103] % 5 == 0).tolist()
    assert pq.ParquetFile(tmp_path / "train-00001.parquet").num_row_groups > 3


def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    rows = some_rows(300, 8, 100)
    for name, pieces in (("a", [rows]), ("b", np.array_split(rows, 11))):
        with ShardWriter(tmp_path / name, 8, 100) as shard:
            for piece in pieces:
                shard.add(piece, piece == 1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "train-00000.parquet", 4, 10) as shard:
        shard.add(some_rows(3, 4, 10), np.zeros((3, 4), dtype=bool))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_names_do_not_mix_and_a_shard_may_be_empty(tmp_path: Path) -> None:
    write(tmp_path, some_rows(3, 4, 10), 10, [])
    write(tmp_path, some_rows(2, 4, 10), 10, [0, 2], name="validation")
    assert len(TokenShards(tmp_path, "train")) == 3
    assert len(TokenShards(tmp_path, "validation")) == 2
    assert np.array_equal(TokenShards(tmp_path, "validation").rows(np.array([1])), some_rows(2, 4, 10)[1:])


def test_a_row_outside_is_refused(tmp_path: Path) -> None:
    write(tmp_path, some_rows(3, 4, 10), 10, [])
    for index in (3, -1):
        with pytest.raises(IndexError):
            TokenShards(tmp_path, "train").rows(np.array([index]))


def test_missing_and_broken_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train-\*\.parquet"):
        TokenShards(tmp_path, "train")
    write(tmp_path, some_rows(30, 4, 10), 10, [10, 20])
    (tmp_path / "train-00001.parquet").write_bytes(b"cut short")
    with pytest.raises(SourceError, match=r"train-00001\.parquet"):
        TokenShards(tmp_path, "train")
    (tmp_path / "train-00001.parquet").unlink()
    with pytest.raises(SourceError, match=r"train-00001\.parquet is missing"):
        TokenShards(tmp_path, "train")


def test_a_flipped_bit_is_found_when_it_is_read(tmp_path: Path) -> None:
    rows = some_rows(2000, 64, 30_000)
    write(tmp_path, rows, 30_000, [])
    path = tmp_path / "train-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    shards = TokenShards(tmp_path, "train")
    with pytest.raises(SourceError, match=r"train-00000\.parquet, row group 0, is damaged"):
        shards.rows(np.arange(2000))


def test_other_tokens_have_another_fingerprint(tmp_path: Path) -> None:
    prints = []
    for seed, cuts in ((0, [50]), (0, [50]), (1, [50]), (0, [60])):
        folder = tmp_path / str(len(prints))
        folder.mkdir()
        write(folder, some_rows(100, 8, 50, seed), 50, cuts)
        prints.append(TokenShards(folder, "train").fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    (tmp_path / "2" / "train-00001.parquet").replace(tmp_path / "0" / "train-00001.parquet")
    assert TokenShards(tmp_path / "0", "train").fingerprint not in prints
