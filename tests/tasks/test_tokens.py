"""The tokens stage: the corpus' text comes back from the shards, in the mix that was asked for."""

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llama2_core.data.documents import Document
from llama2_core.data.mixture import SourceWeight
from llama2_core.errors import DataError
from llama2_core.tokenizer import Tokenizer
from storage.errors import SourceError
from storage.schemas import DOCUMENTS, TableWriter
from storage.shards import TokenShards
from tasks import token_groups, tokens
from tasks.mixture import read_mixture
from tasks.recipes import TokensRecipe
from tasks.token_groups import Encoding
from tasks.tokens import write_tokens

RECIPE = TokensRecipe(
    row_tokens=33, validation_share=0.2, prose_share=0.25, problem_share=0.4, fact_share=0.35
)


@pytest.fixture
def encoding(tmp_path: Path, tokenizer: Tokenizer) -> Encoding:
    """A corpus of two sources, one in two files, and an empty file."""
    files = [("web", range(30)), ("web", range(30, 60)), ("web", ()), ("books", range(20))]
    (tmp_path / "documents").mkdir()
    (tmp_path / "tokens").mkdir()
    for number, (source, members) in enumerate(files):
        with TableWriter(tmp_path / "documents" / f"{number:05d}.parquet", DOCUMENTS) as table:
            for member in members:
                text = f"{source} {member} says that the cat and the dog ran to the red house today. " * 4
                table.add(vars(Document(f"{source}/{member}", source, text)))
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    return Encoding(RECIPE, tmp_path / "tokenizer.model", 0, 1, tmp_path / "tokens")


def build(encoding: Encoding, weights: dict[str, SourceWeight] | None = None) -> dict:
    return write_tokens(encoding, encoding.directory.parent / "documents", weights or {})


def documents_in(rows: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Decode rows end to end and cut at the ends of documents."""
    ids, texts = rows.reshape(-1), []
    for piece in np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)[:-1]:
        texts.append(tokenizer.decode(piece.tolist()))
    return texts


def test_every_document_is_in_one_split_and_comes_back(encoding: Encoding, tokenizer: Tokenizer) -> None:
    summary = build(encoding)
    learned, held_out = (TokenShards(encoding.directory, name) for name in ("train", "validation"))
    prose = summary["sources"]["web"]["tokens"] // 33 + summary["sources"]["books"]["tokens"] // 33
    texts = [
        documents_in(shards.rows(np.arange(len(shards)))[:prose], tokenizer) for shards in (learned, held_out)
    ]
    assert not set(texts[0]) & set(texts[1])
    whole = [text for text in texts[0] + texts[1] if text.count(" says ") == 4]
    assert len(whole) >= 70  # of 80: each file's tail, less than a row, is dropped
    assert len(texts[1]) >= 8
    read = pq.read_table(encoding.directory / "train-00000.parquet")
    for row, begins in zip(read["tokens"].to_pylist(), read["begins"].to_pylist(), strict=True):
        assert [place for place, token in enumerate(row) if token == tokenizer.bos_id] == begins


def test_shares_of_the_whole(encoding: Encoding) -> None:
    """Without a budget the corpus counts as it is, and is a quarter of the mix."""
    summary = build(encoding)
    shares = {source: facts["share"] for source, facts in summary["sources"].items()}
    assert shares["web"] + shares["books"] == pytest.approx(0.25, abs=0.01)
    assert shares["problems"] == pytest.approx(0.4, abs=0.01)
    assert shares["facts"] == pytest.approx(0.35, abs=0.01)
    assert {facts["epochs"] for facts in summary["sources"].values()} == {1.0}
    assert summary["sources"]["web"]["documents"] + summary["sources"]["books"]["documents"] < 80
    assert summary["rows"] == summary["stored_rows"]


def test_weights_and_budget_reach_the_training_run(encoding: Encoding) -> None:
    """300 rows, 75 of prose, books four times as often: rows are stored once and drawn so."""
    budget = replace(encoding, recipe=RECIPE.model_copy(update={"total_tokens": 9900}))
    summary = build(budget, {"books": SourceWeight(weight=4, epochs=10)})
    assert summary["rows"] == 300
    web, books = (summary["sources"][name] for name in ("web", "books"))
    assert books["epochs"] == pytest.approx(4 * web["epochs"], rel=0.05)
    shards, mixture = read_mixture(encoding.directory, seed=0)
    assert len(mixture) == 300
    seen = mixture.rows(np.arange(300))
    first = web["tokens"] // 33
    stored = books["tokens"] // 33
    drawn = ((seen >= first) & (seen < first + stored)).sum()
    assert drawn == round(books["share"] * 300)
    assert shards.rows(seen).shape == (300, 33)


def test_bytes_are_the_same_in_another_order_and_after_a_kill(encoding: Encoding, tmp_path: Path) -> None:
    build(encoding)
    (tmp_path / "again").mkdir()
    again = replace(encoding, directory=tmp_path / "again")

    def backwards(name: str, work, groups) -> None:
        for group in reversed(groups):
            work(group)

    write_tokens(again, tmp_path / "documents", {}, backwards)
    names = sorted(path.name for path in encoding.directory.iterdir())
    assert names == sorted(path.name for path in again.directory.iterdir())
    for name in names:
        assert (encoding.directory / name).read_bytes() == (again.directory / name).read_bytes()
    kept = (again.directory / "train-00000.parquet").stat().st_mtime_ns
    (again.directory / "train-00001.parquet").unlink()
    (again.directory / "mix.json").unlink()
    write_tokens(again, tmp_path / "documents", {})
    assert (again.directory / "train-00000.parquet").stat().st_mtime_ns == kept
    for name in names:
        assert (encoding.directory / name).read_bytes() == (again.directory / name).read_bytes()


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(encoding: Encoding, tmp_path: Path) -> None:
    whole = build(encoding)
    code = (
        "import sys; from pathlib import Path; from tasks.recipes import TokensRecipe;"
        "from tasks.token_groups import Encoding; from tasks.tokens import write_tokens;"
        "recipe = TokensRecipe.model_validate_json(sys.argv[1]); root = Path(sys.argv[2]);"
        "encoding = Encoding(recipe, root / 'tokenizer.model', 0, 1, root / 'killed');"
        "print('begins', flush=True); write_tokens(encoding, root / 'documents', {})"
    )
    (tmp_path / "killed").mkdir()
    draws = random.Random(2)
    for _ in range(20):
        command = [sys.executable, "-c", code, RECIPE.model_dump_json(), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout and process.stdout.readline() == b"begins\n"
            time.sleep(draws.uniform(0, 0.15))
            process.kill()
    again = replace(encoding, directory=tmp_path / "killed")
    assert write_tokens(again, tmp_path / "documents", {}) == whole
    for path in encoding.directory.iterdir():
        assert path.read_bytes() == (again.directory / path.name).read_bytes()


def test_generated_text_may_fill_several_shards(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "GENERATED_ROWS", 20)
    monkeypatch.setattr(token_groups, "BATCH", 8)
    summary = build(encoding)
    about = [a for a in TokenShards(encoding.directory, "train").about if a["source"] == "problems"]
    assert len(about) > 2
    assert {a["rows"] for a in about[:-1]} == {20}
    assert len({a["sha256"] for a in about}) == len(about)
    assert sum(a["rows"] for a in about) * 33 == summary["sources"]["problems"]["tokens"]


def test_one_document_is_held_out_however_small_the_corpus(encoding: Encoding) -> None:
    least = replace(encoding, recipe=RECIPE.model_copy(update={"validation_share": 1e-9}))
    summary = build(least)
    assert summary["sources"]["web"]["documents"] + summary["sources"]["books"]["documents"] == 79
    assert 0 < summary["validation_rows"] < 6


def test_a_corpus_without_validation_says_what_to_change(encoding: Encoding) -> None:
    long = replace(encoding, recipe=RECIPE.model_copy(update={"validation_share": 1e-9, "row_tokens": 500}))
    with pytest.raises(DataError, match=r"0 to validate on: add documents or change tokens.validation_share"):
        build(long)


def test_exchanged_shards_are_refused(encoding: Encoding, tmp_path: Path) -> None:
    build(encoding)
    (tmp_path / "other").mkdir()
    other = replace(encoding, directory=tmp_path / "other", seed=1)
    write_tokens(other, tmp_path / "documents", {})
    shards, _ = read_mixture(encoding.directory, 0)
    assert shards.fingerprint != read_mixture(other.directory, 0)[0].fingerprint
    (other.directory / "train-00000.parquet").replace(encoding.directory / "train-00000.parquet")
    with pytest.raises(SourceError, match="files were exchanged"):
        read_mixture(encoding.directory, 0)
