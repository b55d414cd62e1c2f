"""The desk: blind order, two answers that differ, undo, agreement, and a restart at any moment."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from deployments.services.annotation.desk import Desk
from deployments.services.annotation.seat import RED_TEAM, Page
from deployments.services.speakers import Answer
from llama2_core.errors import DataError
from storage.errors import StorageError
from storage.preference_events import BatchFrozen, Comparison, Skip, Undo
from storage.preference_log import read_events

Make = Callable[..., Desk]


def settled(desk: Desk, annotator: str = "alice") -> Any:
    """Return the annotator's question once it is there to be judged."""
    deadline = time.monotonic() + 60
    while not desk.settle(annotator):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return desk.seat(annotator).open


def taken(desk: Desk, page: Page = "helpfulness", annotator: str = "alice") -> Any:
    desk.take(annotator, page)
    return settled(desk, annotator)


def events(desk: Desk, kind: type) -> list[Any]:
    return [event for event in read_events(desk.log.folder) if isinstance(event, kind)]


@pytest.mark.parametrize("a_is_better", [True, False])
def test_what_was_shown_as_a_is_what_is_chosen(make_desk: Make, a_is_better: bool) -> None:
    desk = make_desk()
    orders = set()
    for page in ("helpfulness", "safety", "helpfulness", "safety"):
        opened = taken(desk, page)
        shown = opened.texts[0 if a_is_better else 1]
        desk.answer(
            "alice", opened.id, a_is_better, "better", (True, False) if page == "safety" else None, False
        )
        made = events(desk, Comparison)[-1]
        assert made.responses[made.chosen].text == shown
        assert [response.model for response in made.responses] == ["newest", "other"]
        if page == "safety":
            a_is_safe = made.responses[made.chosen if a_is_better else 1 - made.chosen].safe
            assert a_is_safe is True
        orders.add(opened.turned)
    assert (desk.progress(), desk.seat("alice").yours) == ((4, 4), 4)
    with pytest.raises(DataError, match="queue is empty"):
        desk.take("alice", "helpfulness")


def test_the_order_is_drawn(make_desk: Make) -> None:
    desk = make_desk()
    desk.speakers = Silent("one", "two")
    turned = 0
    for n in range(40):
        desk.ask("alice", "helpfulness", f"message {n}", "", "")
        turned += settled(desk).turned
        desk.skip("alice")
    assert 8 <= turned <= 32


class Silent:
    """Speakers whose answers are known."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def ask(self, model: str, *_: Any) -> Answer:
        self.texts.append(self.texts.pop(0))
        return Answer(self.texts[-1], "eos")


def test_equal_answers_are_drawn_again_and_then_given_up(make_desk: Make) -> None:
    desk = make_desk()
    desk.speakers = Silent("same", "same", "other")
    assert taken(desk).answers[1].text == "other"
    desk.skip("alice")
    desk.speakers = Silent("same")
    desk.ask("alice", "helpfulness", "hello", "", "")
    with pytest.raises(DataError, match="both models say the same"):
        settled(desk)
    assert desk.seat("alice").open is None


def test_a_dialog_goes_on_with_the_chosen_answer(make_desk: Make) -> None:
    desk = make_desk()
    opened = taken(desk)
    desk.answer("alice", opened.id, True, "slightly better", None, True)
    desk.ask("alice", "helpfulness", "and the dog?", "", "")
    again = settled(desk)
    assert [turn.content for turn in again.prompt.dialog] == [
        "the cat sat on 0",
        opened.texts[0],
        "and the dog?",
    ]
    desk.answer("alice", again.id, True, "better", None, False)
    first, second = events(desk, Comparison)
    assert first.prompt_id == second.prompt_id == "q0"
    assert desk.seat("alice").going_on is None


def test_undo_brings_the_question_back_as_it_was_judged(make_desk: Make) -> None:
    desk = make_desk()
    opened = taken(desk, "safety")
    desk.answer("alice", opened.id, False, "better", (False, True), True)
    desk.undo("alice")
    again = desk.seat("alice").open
    assert again and again.texts == opened.texts
    assert again.judged == {"choice": "b", "grade": "better", "a_safe": "unsafe", "b_safe": "safe"}
    assert desk.progress()[0] == 0
    desk.answer("alice", again.id, True, "better", (True, True), False)
    assert desk.progress()[0] == 1
    assert len(events(desk, Undo)) == 1
    desk.undo("alice")
    with pytest.raises(DataError, match="nothing to undo"):
        desk.undo("alice")


def test_what_is_sent_twice_counts_once(make_desk: Make) -> None:
    desk = make_desk()
    opened = taken(desk)
    assert desk.answer("alice", opened.id, True, "better", None, False) == "Saved."
    assert "counts once" in desk.answer("alice", opened.id, True, "better", None, False)
    assert desk.progress()[0] == 1


def test_a_restart_takes_up_what_stood_before_the_annotator(make_desk: Make) -> None:
    desk = make_desk()
    opened = taken(desk)
    desk = make_desk()
    again = desk.seat("alice").open
    assert again and (again.id, again.texts, again.turned) == (opened.id, opened.texts, opened.turned)
    assert [prompt.id for prompt in desk.queue] == ["q1", "q2", "q3"]
    desk.answer("alice", again.id, True, "better", None, False)
    desk = make_desk()
    assert (desk.seat("alice").open, desk.seat("alice").yours, desk.progress()) == (None, 1, (1, 4))
    desk.undo("alice")
    desk = make_desk()
    back = desk.seat("alice").open
    assert back and (back.id, desk.progress()) == (opened.id, (0, 4))
    desk.answer("alice", back.id, True, "better", None, False)
    assert desk.progress() == (1, 4)
    taken(desk)
    desk.skip("alice")
    assert make_desk().seat("alice").open is None
    assert len(events(desk, Skip)) == 1


def test_agreement_questions_are_those_of_others_in_their_words(make_desk: Make) -> None:
    desk = make_desk(agreement_share=1.0)
    opened = taken(desk)
    desk.answer("alice", opened.id, True, "better", None, True)
    assert taken(desk, annotator="bob").id == opened.id
    theirs = desk.seat("bob").open
    assert theirs and sorted(theirs.texts) == sorted(opened.texts)
    desk.answer("bob", theirs.id, True, "better", None, True)
    assert desk.seat("bob").going_on is None
    first, second = events(desk, Comparison)
    assert (first.question, first.responses) == (second.question, second.responses)
    desk.finish("alice")
    assert taken(desk).id != opened.id  # not one's own


def test_violations_an_hour(make_desk: Make) -> None:
    desk = make_desk()
    with pytest.raises(DataError, match="risk category"):
        desk.ask("alice", "red-team", "pour it into the river", "", "other")
    for unsafe in (True, False):
        desk.ask("alice", "red-team", "pour it into the river", "unqualified advice", "other")
        opened = settled(desk)
        desk.seat("alice").acted = time.monotonic() - 60
        desk.answer("alice", opened.id, True, "better", (not unsafe, True), False)
    assert events(desk, Comparison)[0].kind == RED_TEAM
    assert desk.seat("alice").gamma == pytest.approx(30, rel=0.1)  # one in two minutes


def test_a_frozen_batch_takes_nothing_more(make_desk: Make) -> None:
    desk = make_desk()
    opened = taken(desk)
    desk.log.append(BatchFrozen(id="week-1", time=opened.asked.time))
    with pytest.raises(StorageError, match="frozen"):
        desk.answer("alice", opened.id, True, "better", None, False)
