"""SQL sees what was committed, and only that; views without files are empty and have their columns."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage import safety_tables, schemas
from storage.artifacts import Artifact, Store, digest_of
from storage.errors import StorageError
from storage.preferences import SQL, VIEWS, named_query, query

VALUES = {
    pa.string(): "x",
    pa.int32(): 1,
    pa.int64(): 1,
    pa.float32(): 0.5,
    pa.float64(): 0.5,
    pa.bool_(): True,
    pa.list_(pa.string()): ["a", "b"],
    pa.list_(pa.float32()): [0.5],
}


def row(schema: pa.Schema, **known: object) -> dict[str, Any]:
    return {field.name: VALUES[field.type] for field in schema} | known


def commit(store: Store, kind: str, tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]]) -> Artifact:
    digest = digest_of(kind, 1, {"rows": str(tables)}, {})
    with store.building(kind, digest) as partial:
        for name, (rows, schema) in tables.items():
            path = partial / name.replace("*", "00000")
            path.parent.mkdir(exist_ok=True)
            schemas.write_table(path, rows, schema)
        return store.commit(
            kind,
            digest,
            version=1,
            recipe={},
            parents={"prompts": "dialogs/abc"},
            summary={"rows": len(tables)},
            wall_seconds=1.5,
            cpu_seconds=1.0,
            peak_memory_bytes=1,
        )


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    store = Store(tmp_path / "it's a store")
    grades = ("better", "better", "better", "slightly better")
    for batch, turns in (("1", 2), ("2", 4)):
        rows = [
            row(schemas.COMPARISONS, id=f"{batch}-{n}", batch=batch, grade=grade, turns=turns)
            for n, grade in enumerate(grades)
        ]
        commit(store, "comparisons", {"comparisons.parquet": (rows, schemas.COMPARISONS)})
    dropped = [row(schemas.DROPPED, reason=reason) for reason in ("short", "repeated", "short")]
    commit(store, "corpus", {"dropped/*.parquet": (dropped, schemas.DROPPED)})
    grid = [("theft", "none", "train"), ("theft", "none", "held_out"), ("legal advice", "role play", "train")]
    prompts = [
        row(schemas.PROMPTS, risk_category=category, attack_vector=attack, split=split)
        for category, attack, split in grid
    ]
    commit(store, "dialogs", {"prompts.parquet": (prompts, schemas.PROMPTS)})
    gate = [
        row(
            safety_tables.DISTILLED,
            risk_category="theft",
            original_safety=0.25,
            safety=after,
            kept=after > 0.25,
        )
        for after in (0.75, 0.5, 0.25)
    ]
    commit(store, "distilled", {"distilled.parquet": (gate, safety_tables.DISTILLED)})
    return store


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_without_files_is_empty_with_its_columns(view: str, tmp_path: Path) -> None:
    columns, rows = query(Store(tmp_path / "nothing yet"), f"SELECT * FROM {view}")
    assert columns == [*VIEWS[view][2].names, "digest"]
    assert rows == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_filled_view_has_the_same_columns_and_its_digest(view: str, tmp_path: Path) -> None:
    kind, file, schema = VIEWS[view]
    store = Store(tmp_path / kind / "of mine")
    artifact = commit(store, kind, {file: ([row(schema)], schema)})
    columns, rows = query(store, f"SELECT * FROM {view}")
    assert columns == [*schema.names, "digest"]
    assert rows == [(*row(schema).values(), artifact.digest)]


def test_several_artifacts_are_one_view(filled: Store) -> None:
    assert query(filled, "SELECT count(*), count(DISTINCT digest) FROM comparisons")[1] == [(8, 2)]


def test_artifacts_are_a_view(filled: Store) -> None:
    columns, rows = query(filled, "SELECT kind, digest, wall_seconds FROM artifacts ORDER BY created_at")
    assert columns == ["kind", "digest", "wall_seconds"]
    assert rows == [(a.kind, a.digest, 1.5) for a in filled.artifacts()]
    facts = "manifest->>'$.parents.prompts', CAST(manifest->'$.summary.rows' AS INT)"
    assert query(filled, f"SELECT DISTINCT {facts} FROM artifacts")[1] == [("dialogs/abc", 1)]


def test_work_in_progress_is_invisible(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.building("comparisons", "0" * 64) as partial:
        rows = [row(schemas.COMPARISONS)]
        schemas.write_table(partial / "comparisons.parquet", rows, schemas.COMPARISONS)
        assert query(store, "SELECT count(*) FROM comparisons")[1] == [(0,)]


def test_saved_queries_run_on_any_store(filled: Store, tmp_path: Path) -> None:
    for path in SQL.glob("*.sql"):
        assert query(Store(tmp_path / "nothing yet"), named_query(path.stem))[0]
        if path.stem != "agreement":  # asks the log
            assert query(filled, named_query(path.stem))[1]


def test_the_prompt_grid_shows_empty_cells_and_the_gate_its_counts(filled: Store) -> None:
    assert query(filled, named_query("prompt_grid"))[1] == [
        ("legal advice", "none", 0, 0),
        ("legal advice", "role play", 1, 0),
        ("theft", "none", 1, 1),
        ("theft", "role play", 0, 0),
    ]
    [(_, *cell)] = query(filled, named_query("distilled_grid"))[1]
    assert cell == ["theft", "x", 3, 2, 1, 0.25, 0.5]


def test_grades_are_shares_of_their_batch(filled: Store) -> None:
    assert query(filled, named_query("grades"))[1] == [
        ("1", "better", 3, 75.0),
        ("1", "slightly better", 1, 25.0),
        ("2", "better", 3, 75.0),
        ("2", "slightly better", 1, 25.0),
    ]


def test_table26_and_drops_count(filled: Store) -> None:
    columns, rows = query(filled, named_query("table26"))
    table = [dict(zip(columns, values, strict=True)) for values in rows]
    assert [(line["batch"], line["comparisons"], line["turns"]) for line in table] == [
        ("1", 4, 2),
        ("2", 4, 4),
    ]
    columns, rows = query(filled, named_query("drops"))
    table = [dict(zip(columns, values, strict=True)) for values in rows]
    assert [(line["reason"], line["documents"]) for line in table] == [("short", 2), ("repeated", 1)]


def test_a_bad_query_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"(?s)nonsense.*comparisons.*artifacts"):
        query(Store(tmp_path), "SELECT * FROM nonsense")
    with pytest.raises(StorageError, match="table6"):
        named_query("table7")
