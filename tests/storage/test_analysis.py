"""The tables of a small corpus whose every figure is worked out by hand."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.analysis import TABLES, Mix, analyse
from storage.artifacts import Artifact, Store, digest_of
from storage.schemas import DOCUMENTS, DROPPED, write_table

SUMMARY = {
    "sources": {
        "web": {"read": 30, "kept": 5, "characters": 900},
        "books": {"read": 10, "kept": 0, "characters": 0},
    },
    "languages": {"en": 36, "unknown": 3, "de": 1},
    "drops": [
        {"step": "quality", "reason": "too short", "count": 12, "example_id": "web/q0"},
        {"step": "exact duplicates", "reason": "same text", "count": 2, "example_id": "web/y"},
    ],
    "changes": {"email": 2, "encoding": 1},
}


def document(name: str, language: str = "en", **measured: Any) -> dict[str, Any]:
    lists = dict.fromkeys(("changes", "contamination", "pronouns", "identities"), ())
    row = {
        "id": f"web/{name}",
        "source": "web",
        "text": name,
        "language": language,
        "language_score": 0.9,
        "url": "",
    }
    return row | lists | {"toxicity": None} | measured


def dropped(name: str, step: str, kept: str | None = None, similarity: float | None = None) -> dict[str, Any]:
    row = {"id": f"web/{name}", "source": "web", "step": step, "reason": f"of {step}", "detail": "5 < 50"}
    return row | {"kept_id": kept and f"web/{kept}", "similarity": similarity, "text": f"{name} " * 300}


KEPT = [
    [
        document(
            "a", toxicity=0.0, pronouns=["she", "3rd"], identities=["religion/catholic", "religion/christian"]
        ),
        document(
            "b", toxicity=0.5, pronouns=["1st"], identities=["nationality/american", "religion/christian"]
        ),
        document("c"),
    ],
    [
        document("d", toxicity=1.0, pronouns=["he", "unspecified", "3rd"]),
        document("e", "de", toxicity=0.04, pronouns=["he", "3rd"], identities=["religion/jewish"]),
    ],
]
GONE = [
    [dropped(f"q{number}", "quality") for number in range(12)],
    [
        dropped("x", "near duplicates", "a", 0.875),
        dropped("y", "exact duplicates", "x", 1.0),  # of one that went for a
        dropped("x", "duplicate id", "x", 1.0),
        dropped("z", "near duplicates", "b", 0.875),
        dropped("v", "near duplicates", "a", 0.90625),
        dropped("w", "exact duplicates", "y", 1.0),  # and another step
    ],
]


def tables(
    tmp_path: Path, kept: list = KEPT, gone: list = GONE, mix: Mix | None = None
) -> dict[str, list[dict]]:
    """Analyse a corpus of these files; return every table, ids without their source."""
    corpus, folder = commit(tmp_path, kept, gone), tmp_path / "analysis"
    folder.mkdir()
    analyse(corpus, mix or {}, 10, folder, tmp_path / "scratch")
    assert {path.stem for path in folder.iterdir()} == set(TABLES)
    found = {name: pq.read_table(folder / f"{name}.parquet") for name in TABLES}
    for name, schema in TABLES.items():
        assert list(zip(found[name].schema.names, found[name].schema.types, strict=True)) == [
            (field.name, field.type) for field in schema
        ], name
    return {name: table.to_pylist() for name, table in found.items()}


def commit(tmp_path: Path, kept: list, gone: list) -> Artifact:
    store, digest = Store(tmp_path / "it's a store"), digest_of("corpus", 1, {}, {})
    with store.building("corpus", digest) as partial:
        for kind, files, schema in (("documents", kept, DOCUMENTS), ("dropped", gone, DROPPED)):
            (partial / kind).mkdir()
            for number, rows in enumerate(files):
                write_table(partial / kind / f"{number:05d}.parquet", rows, schema)
        numbers = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
        return store.commit("corpus", digest, version=1, recipe={}, parents={}, summary=SUMMARY, **numbers)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    return tables(tmp_path_factory.mktemp("corpus"))


def values(rows: list[dict]) -> list[tuple]:
    return [tuple(row.values()) for row in rows]


def test_what_the_manifest_has_counted(found: dict[str, list[dict]]) -> None:
    assert values(found["languages"]) == [("en", 36, 0.9), ("unknown", 3, 0.075), ("de", 1, 0.025)]
    assert values(found["drops"]) == [("quality", "too short", 12), ("exact duplicates", "same text", 2)]
    assert values(found["changes"]) == [("email", 2), ("encoding", 1)]
    assert values(found["sources"]) == [
        ("web", 30, 5, 900, None, None, None),
        ("books", 10, 0, 0, None, None, None),
    ]


def test_sources_stand_beside_their_part_in_the_mix(tmp_path: Path) -> None:
    """Generated text has no documents; a source of which nothing is left has no tokens."""
    mix = {
        "web": {"documents": 5, "tokens": 400, "epochs": 1.5, "share": 0.6},
        "facts": {"documents": 9, "tokens": 400, "epochs": 1.0, "share": 0.4},
    }
    assert values(tables(tmp_path, mix=mix)["sources"]) == [
        ("web", 30, 5, 900, 400, 1.5, 0.6),
        ("books", 10, 0, 0, None, None, None),
        ("facts", None, None, None, 400, 1.0, 0.4),
    ]


def test_toxicity_falls_into_twenty_bins(found: dict[str, list[dict]]) -> None:
    """a and e below 0.05, b at 0.5, d at the very end, c not measured."""
    filled = {0: (0.0, 2, 0.5), 10: (0.5, 1, 0.25), 19: (0.95, 1, 0.25)}
    assert values(found["toxicity"]) == [filled.get(bin, (bin / 20, 0, 0.0)) for bin in range(20)]


def test_pronouns_are_of_english_documents(found: dict[str, list[dict]]) -> None:
    """Of a, b, c, d: gendered a and d, with any person a, b and d; e is German."""
    assert values(found["pronouns"]) == [
        ("gendered", 2, 0.5),
        ("she", 1, 0.5),
        ("he", 1, 0.5),
        ("unspecified", 1, 0.5),
        ("any person", 3, 0.75),
        ("1st", 1, 1 / 3),
        ("2nd", 0, 0.0),
        ("3rd", 2, 2 / 3),
    ]


def test_identity_terms_are_of_their_axis(found: dict[str, list[dict]]) -> None:
    """Religion in a and b, nationality in b, of four English documents."""
    assert values(found["identities"]) == [
        ("nationality", "american", 1, 1.0, 0.25),
        ("religion", "christian", 2, 1.0, 0.5),
        ("religion", "catholic", 1, 0.5, 0.5),
    ]


def test_examples_are_ten_of_a_reason_by_a_hash_of_their_ids(found: dict[str, list[dict]]) -> None:
    def by_hash(name: str) -> str:
        return hashlib.md5(name.encode()).hexdigest()

    short = [row for row in found["examples"] if row["step"] == "quality"]
    assert [row["id"] for row in short] == sorted((f"web/q{n}" for n in range(12)), key=by_hash)[:10]
    assert all(len(row["text"]) == 500 for row in short)
    assert short[0]["reason"] == "of quality" and short[0]["detail"] == "5 < 50"
    assert len(found["examples"]) == 10 + 3 + 2 + 1


def test_duplicates_are_a_graph_and_its_clusters(found: dict[str, list[dict]]) -> None:
    """x and v went for a, y and a second x for x, w for y: five and a are six; z went for b."""
    assert values(found["duplicates"]) == [
        ("web/x", "web/a", "near duplicates", 0.875),
        ("web/y", "web/x", "exact duplicates", 1.0),
        ("web/x", "web/x", "duplicate id", 1.0),
        ("web/z", "web/b", "near duplicates", 0.875),
        ("web/v", "web/a", "near duplicates", 0.90625),
        ("web/w", "web/y", "exact duplicates", 1.0),
    ]
    assert values(found["clusters"]) == [("web/a", 6), ("web/b", 2)]
    assert values(found["similarities"]) == [(0.875, 2), (0.90625, 1)]


def test_nothing_measured_and_nothing_dropped(tmp_path: Path) -> None:
    found = tables(tmp_path, kept=[[document("a"), document("b", "de")]], gone=[[]])
    for name in ("toxicity", "pronouns", "identities", "examples", "duplicates", "clusters", "similarities"):
        assert found[name] == [], name


def test_a_second_try_writes_the_same(tmp_path: Path) -> None:
    corpus, folder = commit(tmp_path, KEPT, GONE), tmp_path / "analysis"
    folder.mkdir()
    analyse(corpus, {}, 10, folder, tmp_path / "scratch")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    analyse(corpus, {}, 10, folder, tmp_path / "scratch")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
