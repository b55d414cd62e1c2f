"""Two corpora compared: every kind of difference, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import Artifact, Store
from storage.corpus_diff import CorpusDiff, corpus_diff, recipe_diff
from storage.schemas import DOCUMENTS, DROPPED, write_table

MEASURED: dict[str, Any] = {"summary": {}, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}


def commit(store: Store, digest: str, kept: dict[str, str], drops: list[tuple[str, str, str]]) -> Artifact:
    """Commit a corpus of kept documents (id: text) and dropped ones (id, step, reason)."""
    documents = [dict.fromkeys(DOCUMENTS.names) | {"id": id, "text": kept[id], "source": "s"} for id in kept]
    dropped = [
        dict.fromkeys(DROPPED.names) | {"id": id, "text": id, "source": "s", "step": step, "reason": reason}
        for id, step, reason in drops
    ]
    with store.building("corpus", digest) as partial:
        for name, rows, schema in (("documents", documents, DOCUMENTS), ("dropped", dropped, DROPPED)):
            (partial / name).mkdir()
            write_table(partial / name / "00000.parquet", rows, schema)
        return store.commit("corpus", digest, version=1, recipe={"a": 1}, parents={}, **MEASURED)


def diff(tmp_path: Path, *corpora: tuple[dict[str, str], list[tuple[str, str, str]]]) -> CorpusDiff:
    store = Store(tmp_path)
    a, b = (commit(store, digit * 64, *corpus) for digit, corpus in zip("ab", corpora, strict=True))
    commit(store, "c" * 64, {"another corpus": "is not looked at"}, [])
    return corpus_diff(store, a, b)


@pytest.mark.parametrize(
    ("a", "b", "change"),
    [
        (({"x": "1"}, []), ({}, []), ("only in A", None, None)),
        (({}, []), ({}, [("x", "quality", "short")]), ("only in B", None, "short")),
        (({"x": "1"}, []), ({"x": "2"}, []), ("another text", None, None)),
        (({"x": "1"}, []), ({}, [("x", "quality", "short")]), ("B drops, A keeps", None, "short")),
        (({}, [("x", "quality", "short")]), ({"x": "1"}, []), ("A drops, B keeps", "short", None)),
        (
            ({}, [("x", "quality", "short")]),
            ({}, [("x", "language", "language de")]),
            ("dropped for another reason", "short", "language de"),
        ),
        (
            ({}, [("x", "quality", "short"), ("x", "quality", "short")]),
            ({}, [("x", "quality", "long"), ("x", "quality", "short")]),
            ("dropped for another reason", "short", "long"),
        ),
    ],
)
def test_each_change(a: Any, b: Any, change: tuple, tmp_path: Path) -> None:
    found = diff(tmp_path, a, b)
    [row] = found.documents
    assert (row["change"], row["reason_a"], row["reason_b"]) == change
    assert (row["documents"], row["examples"]) == (1, ["x"])
    assert not found.equal


def test_an_id_read_twice_is_kept_if_one_is(tmp_path: Path) -> None:
    found = diff(tmp_path, ({"x": "1"}, [("x", "duplicate id", "same id")]), ({"x": "1"}, []))
    assert found.documents == []
    assert found.sources == [{"source": "s", "kept_a": 1, "kept_b": 1, "dropped_a": 1, "dropped_b": 0}]
    assert not found.equal


def test_five_examples_of_many_and_equal_corpora(tmp_path: Path) -> None:
    many = {f"{number:02d}": "text" for number in range(30)}
    drops = [("y", "quality", "short")]
    assert diff(tmp_path / "equal", (many, drops), (many, drops)).equal
    [row] = diff(tmp_path / "other", (many, drops), ({}, drops)).documents
    assert (row["documents"], row["examples"]) == (30, ["00", "01", "02", "03", "04"])


def test_recipes_by_dotted_path() -> None:
    a = {
        "seed": 0,
        "languages": ["en"],
        "sources": [{"name": "x", "content": "1"}],
        "personal": {"kinds": ["id"]},
    }
    b = {"seed": 0, "languages": ["en", "de"], "sources": [{"name": "x", "content": "2"}], "personal": None}
    assert recipe_diff(a, b) == {
        "languages": (["en"], ["en", "de"]),
        "sources.0.content": ("1", "2"),
        "personal.kinds": (["id"], None),
    }
    assert recipe_diff(a, a) == {}
