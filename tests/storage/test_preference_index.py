"""The index says what the log says, also when only its new lines were read, and nobody waits for it."""

import random
from pathlib import Path

import numpy as np
import pytest

from llama2_core.evaluation.agreement import gwet_ac2, ordinal_weights
from storage.artifacts import Store
from storage.errors import StorageError
from storage.preference_batches import rating_counts, status
from storage.preference_events import GRADES, BatchFrozen, BatchOpened, Rating, Response, Skip, Undo
from storage.preference_index import INDEX, refresh
from storage.preference_log import LOG, PreferenceLog, read_ratings
from storage.preferences import connect, named_query, query
from tests.storage.test_preference_log import NOW, compared

SAFE = (Response(text="No.", safe=True), Response(text="Yes, do it.", safe=False))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "preferences"


def test_views_hold_what_was_logged(store: Store, folder: Path) -> None:
    with PreferenceLog(folder) as log:
        log.append(BatchOpened(id="week-1", target=9, time=NOW))
        log.append(compared("a", domain="safety", responses=SAFE, chosen=1, risk_category="theft"))
        log.append(compared("b", seconds=2.5))
        log.append(compared("c"))
        log.append(Undo(id="c", annotator="Ann Ö", time=NOW))
        log.append(Skip(id="s", question="q", batch="week-1", annotator="Bo", time=NOW))
        columns = "id, safety, safety_bin, chosen_safe, turns, prompt_length, chosen_length, rejected_length"
        assert query(store, f"SELECT {columns} FROM annotations ORDER BY id")[1] == [
            ("a", True, "chosen unsafe, other safe", False, 1, 5, 3, 1),
            ("b", False, "", None, 1, 5, 3, 1),
        ]
        assert query(store, "SELECT id, dialog, chosen, rejected FROM texts ORDER BY id")[1][:2] == [
            ("a", '[{"role":"user","content":"What is 2 + 3?"}]', "Yes, do it.", "No."),
            ("b", '[{"role":"user","content":"What is 2 + 3?"}]', "It is 5.", '"6"\n'),
        ]
        assert query(store, "SELECT batch, target, frozen_at FROM batches")[1] == [("week-1", 9, None)]
        assert query(store, "SELECT count(*) FROM skips")[1] == [(1,)]
        assert query(store, "SELECT id FROM preferences ORDER BY id")[1] == [("a",), ("b",)]
        with connect(store) as db:
            assert [(row["batch"], row["annotations"], row["state"]) for row in status(db)] == [
                ("week-1", 2, "open")
            ]
        log.append(BatchFrozen(id="week-1", time=NOW))
    assert query(store, "SELECT id FROM preferences")[1] == []  # its artifact is what counts now


def test_new_lines_are_added_and_an_old_index_goes_on_being_read(store: Store, folder: Path) -> None:
    with PreferenceLog(folder) as log:
        for number in range(5):
            log.append(compared(f"a-{number}"))
        reader = connect(store)
        first = (folder / INDEX).stat().st_ino
        assert refresh(folder) == folder / INDEX and (folder / INDEX).stat().st_ino == first
        log.append(compared("b"))
        log.append(Undo(id="a-1", annotator="Ann Ö", time=NOW))
        ids = [row[0] for row in query(store, "SELECT id FROM annotations ORDER BY id")[1]]
        assert ids == ["a-0", "a-2", "a-3", "a-4", "b"]
        assert reader.execute("SELECT count(*) FROM annotations").fetchall() == [(5,)]
        (folder / INDEX).unlink()
        assert [row[0] for row in query(store, "SELECT id FROM annotations ORDER BY id")[1]] == ids
        (folder / INDEX).write_bytes(b"not a database")
        assert [row[0] for row in query(store, "SELECT id FROM annotations ORDER BY id")[1]] == ids
    assert not list(folder.glob(".*"))


def test_a_line_in_the_making_is_left_out_and_a_bad_one_named(store: Store, folder: Path) -> None:
    with PreferenceLog(folder) as log:
        log.append(compared("a"))
    whole = (folder / LOG).read_bytes()
    (folder / LOG).write_bytes(whole + whole[:50])
    assert query(store, "SELECT id FROM annotations")[1] == [("a",)]
    (folder / LOG).write_bytes(whole + whole.replace(b'"a"', b'"b"'))
    assert len(query(store, "SELECT id FROM annotations")[1]) == 2
    (folder / LOG).write_bytes(
        whole + whole.replace(b'"a"', b'"b"') + b"{]\n" + whole.replace(b'"a"', b'"c"')
    )
    with pytest.raises(StorageError, match=r"log\.jsonl:3"):
        query(store, "SELECT id FROM annotations")


def test_agreement_in_sql_is_the_core_s(store: Store, folder: Path) -> None:
    random_ = random.Random(0)
    with PreferenceLog(folder) as log:
        for question in range(40):
            for annotator in range(random_.randrange(1, 4)):
                log.append(
                    compared(
                        f"{question}-{annotator}",
                        question=f"q-{question}",
                        annotator=f"person {annotator}",
                        grade=random_.choice(GRADES),
                        chosen=int(random_.random() < 0.8),
                    )
                )
    columns, rows = query(store, named_query("agreement"))
    [row] = [dict(zip(columns, values, strict=True)) for values in rows]
    with connect(store) as db:
        counts = rating_counts(db, "week-1", safety=False)
    assert (row["questions"], row["annotations"]) == (len(counts), counts.sum())
    assert row["ac2"] == round(gwet_ac2(counts, ordinal_weights(8)).value, 3)
    sides = np.stack([counts[:, :4].sum(1), counts[:, 4:].sum(1)], 1)
    same = ((sides * (sides - 1)).sum(1) / (sides.sum(1) * (sides.sum(1) - 1))).mean()
    assert row["same_choice_percent"] == pytest.approx(100 * same, abs=0.05)


def test_table6_by_hand(store: Store, folder: Path) -> None:
    """Prompts of 5 and 5 words, dialog 5; responses of 3 and 1: an example is 5 + 2."""
    with PreferenceLog(folder) as log:
        log.append(compared("a"))
        log.append(compared("b"))
    row = ("ours, by person", 2, 1.0, 7.0, 5.0, 2.0, "words")
    assert query(store, named_query("table6"))[1] == [row, ("Total", *row[1:])]
    assert query(store, named_query("length_bias"))[1] == [
        ("person", "helpfulness", 2, 100.0, 3.0, 1.0, "words")
    ]


def test_the_risk_grid_shows_what_nobody_asked(store: Store, folder: Path) -> None:
    with PreferenceLog(folder) as log:
        for name, risk, attack in (("a", "theft", "role play"), ("b", "advice", "misspelling")):
            known = {"domain": "safety", "responses": SAFE, "risk_category": risk, "attack_vector": attack}
            log.append(compared(name, **known))
    assert query(store, named_query("risk_grid"))[1] == [
        ("advice", "misspelling", 1, 0.0),
        ("advice", "role play", 0, None),
        ("theft", "misspelling", 0, None),
        ("theft", "role play", 1, 0.0),
    ]


def test_ratings_are_counted_but_nothing_learns_from_them(store: Store, folder: Path) -> None:
    def rated(name: str, annotator: str = "Ann") -> Rating:
        return Rating(id=name, batch="r", annotator=annotator, question="0", value=-3, time=NOW, seconds=2.0)

    with PreferenceLog(folder) as log:
        log.append(BatchOpened(id="r", target=2, time=NOW))
        assert [log.append(rated(name)) for name in ("a", "b", "a")] == [True, True, False]
        with pytest.raises(StorageError, match="Bo has nothing named a that can be undone"):
            log.append(Undo(id="a", annotator="Bo", time=NOW))
    refresh(folder)
    with PreferenceLog(folder) as log:
        log.append(Undo(id="a", annotator="Ann", time=NOW))
        log.append(rated("c", "Bo"))
        assert log.batches()[0].comparisons == 2
    assert [rating.id for rating in read_ratings(folder, "r")] == ["b", "c"]
    with connect(store) as db:
        [row] = status(db)
    assert (row["target"], row["annotations"], row["questions"], row["annotators"]) == (2, 2, 1, 2)
    for view in ("annotations", "preferences", "texts"):
        assert query(store, f"SELECT count(*) FROM {view}")[1] == [(0,)]
    with PreferenceLog(folder) as log:
        assert log.batches()[0].comparisons == 2, "as before, read anew"
        log.append(BatchFrozen(id="r", time=NOW))
        with pytest.raises(StorageError, match="Batch r is frozen"):
            log.append(rated("d"))
        with pytest.raises(StorageError, match="its batch is frozen"):
            log.append(Undo(id="c", annotator="Bo", time=NOW))
