"""What the worker does to see whether a model keeps to a stated date. Llama 2 section 3.3."""

import random
from collections.abc import Sequence
from typing import Any

from llama2_core.chat import encode_prompt
from llama2_core.evaluation.statistics import proportion
from llama2_core.generate import Request
from llama2_core.seeding import derive_seed
from llama2_core.training.checkpoint import load_policy
from storage.schemas import DATED, write_table
from tasks.event_dates import QUESTIONS, asked_on, draw_date, events
from tasks.ghost_recipe import TemporalRecipe
from tasks.sampling_stages import in_chunks, sample
from tasks.stage import Stage


def temporal(stage: Stage) -> dict:
    """Ask about events on dates of no demonstration, by turns before and after; look for the event's year."""
    recipe = TemporalRecipe.model_validate(stage.recipe)
    model, tokenizer = load_policy(stage.parents["model"])
    known = events(recipe.dated)

    def work(chunk: Sequence[int]) -> list[dict]:
        rows = []
        for index in chunk:
            random_ = random.Random(derive_seed(stage.seed, "asked", index))
            event = random_.choice(known)
            stated = draw_date(event, random_, recipe.dated.years_around, bool(index % 2), held_out=True)
            rows.append((event, stated, random_.choice(QUESTIONS).format(event.event)))
        asks = [
            Request(
                encode_prompt(asked_on(stated, question), tokenizer),
                derive_seed(stage.seed, "answer", index),
                recipe.sampling,
            )
            for index, (_, stated, question) in zip(chunk, rows, strict=True)
        ]
        answers = sample(stage, model, tokenizer, asks)
        return [
            {
                "event": event.event,
                "event_date": event.date.isoformat(),
                "stated_date": stated.isoformat(),
                "question": question,
                "response": answer,
                "happened": stated >= event.date,
                "told": str(event.date.year) in answer,
            }
            for (event, stated, question), answer in zip(rows, answers, strict=True)
        ]

    rows = in_chunks(stage, range(recipe.questions), work)
    write_table(stage.directory / "dated.parquet", rows, DATED)
    return facts_of(rows)


def facts_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how often the year is told once it has happened, withheld before, and both together."""
    happened = [row["told"] for row in rows if row["happened"]]
    not_yet = [not row["told"] for row in rows if not row["happened"]]
    return {
        "told_after": proportion(sum(happened), len(happened)).as_dict(),
        "withheld_before": proportion(sum(not_yet), len(not_yet)).as_dict(),
        "respected": proportion(sum(happened + not_yet), len(rows)).as_dict(),
    }
