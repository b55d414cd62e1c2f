"""Ratings by a panel: blind and in random order, by three each, undone, taken up after a restart, frozen, verdicts."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from deployments.services.annotation.access import Access
from deployments.services.annotation.app import create_app
from deployments.services.annotation.orders import freeze_if_complete
from deployments.services.annotation.panel import Panel, Question
from llama2_core.errors import DataError
from storage.errors import StorageError
from storage.preference_events import BatchOpened, Rating, Turn
from storage.preference_log import PreferenceLog, read_events, read_ratings
from storage.preference_orders import RatingOrder, orders, place
from tasks.arena import rated_rows

PEOPLE = ("alice", "bob", "carol")
Make = Callable[..., Panel]


def questions(answers: int, count: int = 6) -> list[Question]:
    return [
        Question(
            str(n),
            n % 2 == 1,
            (Turn(role="user", content=f"<b>prompt</b> {n}"),),
            tuple(f"answer {which} to {n}" for which in ("one", "two")[:answers]),
        )
        for n in range(count)
    ]


@pytest.fixture
def make_panel(tmp_path: Path) -> Iterator[Make]:
    """Open the log and return a panel on it; called again, it is as after a restart."""
    logs: list[PreferenceLog] = []

    def make(answers: int = 2, raters: int = 3) -> Panel:
        if logs:
            logs.pop().close()
        log = PreferenceLog(tmp_path / "preferences")
        logs.append(log)
        order = RatingOrder(batch="r", sheet="sheet/1", target=6 * raters, raters=raters, placed=1.0)
        if not log.batches():
            log.append(BatchOpened(id="r", target=order.target, time=datetime.now(UTC)))
        return Panel(log, order, questions(answers))

    yield make
    for log in logs:
        log.close()


def prefer(panel: Panel, annotator: str, which: str = "one") -> Question:
    """Say of the open question that this answer, wherever it stands, is better."""
    shown = panel.open(annotator)
    assert shown
    a = shown.answers[1 if panel.turned(annotator, shown) else 0]
    panel.rate(annotator, shown.id, 2 if which in a else -2)
    return shown


def test_three_rate_each_question_blind_and_the_batch_is_complete(make_panel: Make) -> None:
    panel = make_panel()
    turned = []
    for n in range(18):
        turned.append(panel.turned(PEOPLE[n % 3], prefer(panel, PEOPLE[n % 3], "one" if n < 9 else "two")))
    assert 2 < sum(turned) < 16, "the order is drawn"
    assert [panel.open(name) for name in (*PEOPLE, "dave")] == [None] * 4
    given = read_ratings(panel.log.folder, "r")
    assert len({(rating.question, rating.annotator) for rating in given}) == 18
    assert [rating.value for rating in given] == [2] * 9 + [-2] * 9, (
        "for the first answer, whatever was shown as A"
    )
    assert freeze_if_complete(panel.log, panel.order)
    with pytest.raises(StorageError, match="frozen"):
        panel.undo("alice")
    rows = [{"id": q.id, "answers": list(q.answers)} for q in questions(2)]
    rated = rated_rows([*rows, {"id": "9", "answers": ["same", "same"]}], panel.log.folder, "r")
    outcomes = [row["outcome"] for row in rated]
    assert (outcomes.count("win"), outcomes.count("loss"), outcomes[-1]) == (3, 3, "tie")
    assert all(len(row["ratings"]) == 3 and set(row["said"]) == set(PEOPLE) for row in rated[:-1])


def test_a_question_that_is_nearly_done_comes_first_and_one_too_many_is_not_taken(make_panel: Make) -> None:
    panel = make_panel()
    first = [panel.open(name) for name in PEOPLE]
    assert len({shown.id for shown in first if shown}) == 1
    late = panel.open("dave")
    assert late and late != first[0], "three look at the first already"
    [shown] = {prefer(panel, name) for name in PEOPLE}
    panel.rate("dave", shown.id, 1)
    assert panel.progress() == 3
    assert panel.open("alice") != shown
    panel.rate("alice", shown.id, 1)
    assert panel.progress() == 3, "sent twice"


def test_who_left_holds_nothing_up(make_panel: Make) -> None:
    panel = make_panel(raters=1)
    seen = {panel.open(name).id for name in ("a", "b", "c", "d", "e", "f")}  # type: ignore[union-attr]
    assert len(seen) == 6
    assert panel.open("late") is not None


def test_undo_skip_and_a_restart(make_panel: Make) -> None:
    panel = make_panel()
    one, two = prefer(panel, "alice"), prefer(panel, "alice")
    panel.undo("alice")
    assert panel.open("alice") == two and panel.progress() == 1
    panel.skip("alice", two.id)
    third = panel.open("alice")
    assert third and third not in (one, two)
    order = panel.turned("alice", third)
    panel = make_panel()
    assert (panel.progress(), panel.open("alice"), panel.turned("alice", third)) == (1, third, order)
    assert panel.log.batches()[0].comparisons == 1
    panel.undo("alice")
    assert panel.progress() == panel.log.batches()[0].comparisons == 0
    with pytest.raises(DataError, match="nothing to undo"):
        panel.undo("alice")
    kinds = [event.event for event in read_events(panel.log.folder)]
    assert kinds == ["opened", "rating", "rating", "undo", "skip", "undo"], "nothing is taken out of the log"


def test_single_answers_are_rated_by_safety(make_panel: Make) -> None:
    panel = make_panel(answers=1)
    for n in range(18):
        shown = panel.open(PEOPLE[n % 3])
        assert shown and not panel.turned(PEOPLE[n % 3], shown)
        panel.rate(PEOPLE[n % 3], shown.id, 1 + n % 3 if shown.id in "01" else 5)
    rows = [{"id": q.id, "answers": list(q.answers)} for q in questions(1)]
    rated = rated_rows(rows, panel.log.folder, "r")
    assert [row["outcome"] for row in rated] == ["violation"] * 2 + ["safe"] * 4, "1, 2 and 3: two of three"


def test_orders_of_both_kinds_stand_in_one_line(tmp_path: Path) -> None:
    order = RatingOrder(batch="r", sheet="sheet/1", target=6, raters=3, placed=2.0)
    place(tmp_path, order)
    assert orders(tmp_path) == [order]


@pytest.fixture
def rating(make_panel: Make, access: Access) -> TestClient:
    """Return a browser in which Alice has signed in to rate."""
    browser = TestClient(create_app(make_panel(), access, ["127.0.0.1"]), base_url="http://127.0.0.1")
    browser.post("/sign-in", data={"token": access.add("alice")})
    return browser


def fields(page: str) -> dict[str, Any]:
    return {
        name: page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("form_secret", "question")
    }


def test_the_page_takes_what_is_on_the_scale_and_names_no_model(rating: TestClient, tmp_path: Path) -> None:
    page = rating.get("/").text
    assert "&lt;b&gt;prompt&lt;/b&gt;" in page and "<b>prompt" not in page
    assert page.count('name="value"') == 7 and "Helpfulness" not in page
    for value in ("4", "-9", "9" * 5000, "", "x", "²"):
        answer = rating.post("/ratings/rate", data={**fields(page), "value": value})
        assert answer.status_code == 422 and "points of the scale" in answer.text
    page = rating.post("/ratings/rate", data={**fields(page), "value": "-1"}).text
    assert "1 of 18 ratings" in page and "yours 1" in page
    assert rating.post("/ratings/undo", data=fields(page)).text.count("0 of 18 ratings") == 1
    assert rating.post("/ratings/other", data=fields(page)).status_code == 404
    assert rating.get("/helpfulness").status_code == 404
    [made] = [event for event in read_events(tmp_path / "preferences") if isinstance(event, Rating)]
    assert abs(made.value) == 1 and made.annotator == "alice" and made.seconds >= 0


def test_a_rating_from_another_site_is_refused(rating: TestClient) -> None:
    good = {**fields(rating.get("/ratings").text), "value": "1"}
    assert rating.post("/ratings/rate", data={**good, "form_secret": ""}).status_code == 403
    assert (
        rating.post("/ratings/rate", data=good, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    )
    rating.cookies.clear()
    assert rating.post("/ratings/rate", data=good, follow_redirects=False).headers["location"] == "/sign-in"
