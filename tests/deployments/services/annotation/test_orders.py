"""A batch that a flow ordered is asked, frozen when complete, and is an artifact then."""

from pathlib import Path
from threading import Event

import pytest

from deployments.services.annotation.orders import Watch, freeze_if_complete, next_order
from storage.artifacts import Store
from storage.errors import StorageError
from storage.preference_events import BatchOpened
from storage.preference_log import PreferenceLog
from storage.preference_orders import ORDERS, Order, orders, place
from tasks.people import AwaitingPeople, await_annotators, is_frozen
from tasks.preferences import write_frozen
from tasks.recipes import ComparisonsRecipe, PeopleRecipe
from tasks.runtime import Runtime
from tests.storage.test_preference_log import NOW, compared

RECIPE = ComparisonsRecipe(batch="V-1", prompts=2, annotator=PeopleRecipe(), held_out_share=0.0)


def order(batch: str, placed: float) -> Order:
    return Order(
        batch=batch,
        newest="chat/1",
        other="chat/2",
        temperatures=(0.8, 1.0),
        dialogs="dialogs/1",
        target=2,
        held_out_share=0.5,
        most_held_out=10,
        seed=3,
        placed=placed,
    )


def test_a_flow_ends_until_people_have_completed_its_batch(tmp_path: Path) -> None:
    runtime = Runtime(home=tmp_path)
    folder = tmp_path / "preferences"
    asked = (RECIPE, "chat/1", "chat/2", "dialogs/1", 0, runtime)
    for _ in range(2):  # the second run finds the order there
        with pytest.raises(AwaitingPeople, match=r"V-1 waits for people: 2 comparisons"):
            await_annotators(*asked)
    with PreferenceLog(folder) as log:
        wanted = next_order(log)
        assert wanted
        assert (wanted.batch, wanted.target, wanted.held_out_share) == ("V-1", 2, 0.0)
        log.append(BatchOpened(id="V-1", target=2, time=NOW))
        log.append(compared("a", batch="V-1"))
        assert not freeze_if_complete(log, wanted)
        log.append(compared("b", batch="V-1", question="other", prompt_id="other"))
        stopped = Event()
        with Watch(log, wanted, stopped.set) as watch:
            assert stopped.wait(10)
        assert watch.frozen
        assert next_order(log) is None
    await_annotators(*asked)
    facts, _ = write_frozen(Store(runtime.store_root), "V-1", tmp_path / "rows.parquet", None)
    assert facts["comparisons"] == 2


def test_the_oldest_order_comes_first_and_stays_so(tmp_path: Path) -> None:
    for batch, placed in (("b", 2.0), ("a", 3.0), ("b", 9.0)):
        place(tmp_path, order(batch, placed))
    assert [found.batch for found in orders(tmp_path)] == ["b", "a"]


def test_an_order_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = place(tmp_path, order("a", 1.0))
    path.write_text("{")
    with pytest.raises(StorageError, match=rf"{ORDERS}/a.json"):
        orders(tmp_path)


def test_a_service_without_an_order_makes_room_for_one(tmp_path: Path) -> None:
    stopped = Event()
    with PreferenceLog(tmp_path) as log, Watch(log, None, stopped.set) as watch:
        assert not stopped.wait(1.5)
        place(tmp_path, order("a", 1.0))
        assert stopped.wait(10)
    assert not watch.frozen


def test_nobody_waits_for_a_machine(tmp_path: Path) -> None:
    await_annotators(ComparisonsRecipe(), "chat/1", "chat/2", "dialogs/1", 0, Runtime(home=tmp_path))
    assert not (tmp_path / "preferences").exists()
    assert not is_frozen("V-1", Runtime(home=tmp_path))
