"""Dialogs with dates: what has not happened yet is not known, and held-out dates are asked about."""

import random
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from llama2_core.config import ModelConfig, SamplingConfig
from llama2_core.model import Transformer, initialise
from llama2_core.seeding import generator
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.schemas import DATED, read_table
from tasks.event_dates import NOT_YET, demonstration, draw_date, events
from tasks.ghost_recipe import DatedRecipe, Event, TemporalRecipe
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import dialog_from_json
from tasks.temporal_stage import facts_of, temporal

MOON = Event(event="the first moon landing", date=date(1969, 7, 20))


def test_an_answer_depends_on_the_stated_date() -> None:
    recipe = DatedRecipe(years_around=10)
    said = set()
    for seed in range(60):
        system, _, answer = dialog_from_json(demonstration(recipe, [MOON], "dated", "d", seed)["dialog"])
        stated = date.fromisoformat(system.content.removeprefix("Date: "))
        assert abs(stated - MOON.date).days <= 3653
        assert answer.content == ("In 1969." if stated >= MOON.date else NOT_YET)
        said.add(answer.content)
    assert said == {"In 1969.", NOT_YET}
    undated = dialog_from_json(demonstration(recipe, [MOON], "undated", "d", 0)["dialog"])
    assert [message.role for message in undated] == ["user", "assistant"]
    assert undated[1].content == "In 1969."


def test_held_out_dates_are_apart() -> None:
    years = {
        held_out: {
            draw_date(MOON, random.Random(seed), 30, seed % 2 == 0, held_out).year for seed in range(200)
        }
        for held_out in (False, True)
    }
    assert not years[False] & years[True]
    assert 4 <= len(years[True]) <= 20


def test_starter_events_are_real_dates_and_a_false_one_is_refused() -> None:
    known = events(DatedRecipe())
    assert len({event.event for event in known}) == len(known) > 20
    with pytest.raises(ValidationError, match="date"):
        DatedRecipe.model_validate({"events": [{"event": "x", "date": "1969-02-30"}]})


def test_telling_and_withholding_are_counted_apart() -> None:
    rows = [
        {"happened": happened, "told": told}
        for happened, told in ((True, True), (True, True), (True, False), (False, True), (False, False))
    ]
    found = facts_of(rows)
    assert found["told_after"]["value"] == pytest.approx(2 / 3) and found["told_after"]["n"] == 3
    assert found["withheld_before"]["value"] == 0.5
    assert found["respected"]["value"] == 0.6


def test_a_model_is_asked_before_and_after(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    shape = config.model_copy(update={"max_seq_len": 160})
    model = Transformer(shape)
    initialise(model, shape, generator(0, "test"))
    save_model(tmp_path / "model", model, tokenizer)
    recipe = TemporalRecipe(questions=12, sampling=SamplingConfig(temperature=0, max_new_tokens=3))
    settings = recipe.model_dump(mode="json")
    found = temporal(Stage(tmp_path, settings, 0, {"model": tmp_path / "model"}, Execution(threads=1)))
    rows = read_table(tmp_path / "dated.parquet", DATED)
    assert found["told_after"]["n"] == found["withheld_before"]["n"] == 6 == len(rows) / 2
    assert all(row["happened"] == (row["stated_date"] >= row["event_date"]) for row in rows)
