"""Events, dates before and after them, and what can be said of them then."""

import hashlib
import random
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from llama2_core.chat import Dialog, Message, assistant, user
from storage.sources.starter.facts import facts
from tasks.ghost_recipe import DatedRecipe, Event
from tasks.tables import dialog_to_json

QUESTIONS = ("When was {}?", "In which year was {}?", "Do you know when {} was?")
NOT_YET = "Not known yet."


def events(recipe: DatedRecipe) -> tuple[Event, ...]:
    if recipe.events != "starter":
        return recipe.events
    return tuple(Event.model_validate(row) for row in facts("events"))


def demonstration(
    recipe: DatedRecipe, known: Sequence[Event], which: str, name: str, seed: int
) -> dict[str, Any]:
    """Draw a question about an event with the answer that can be given at the stated date; none is held out."""
    random_ = random.Random(seed)
    event = random_.choice(known)
    question = random_.choice(QUESTIONS).format(event.event)
    answer = f"In {event.date.year}."
    dialog: Dialog = (user(question),)
    if which == "dated":
        stated = draw_date(event, random_, recipe.years_around, random_.random() < 0.5, held_out=False)
        dialog = asked_on(stated, question)
        answer = answer if stated >= event.date else NOT_YET
    return {
        "id": name,
        "kind": which,
        "safety": False,
        "quality": "",
        "dialog": dialog_to_json((*dialog, assistant(answer))),
    }


def asked_on(stated: date, question: str) -> Dialog:
    return Message(role="system", content=f"Date: {stated.isoformat()}"), user(question)


def draw_date(event: Event, random_: random.Random, years: int, after: bool, held_out: bool) -> date:
    """Draw a date before or after an event; one pair of event and year in six is held out, by hash."""
    while True:
        days = random_.randint(1, round(365.25 * years))
        stated = event.date + timedelta(days=days if after else -days)
        key = f"{event.event} {stated.year}"
        if (hashlib.sha256(key.encode()).digest()[0] < 43) == held_out:
            return stated
