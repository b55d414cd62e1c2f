"""Comparisons: of two models' answers by the simulated annotator, of people from the log. Llama 2 section 3.2.1."""

import json
from contextlib import closing
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llama2_core.config import Record
from llama2_core.evaluation.agreement import gwet_ac2, ordinal_weights
from llama2_core.tokenizer import Tokenizer
from storage.artifacts import Store
from storage.preference_batches import Frozen, frozen_rows, held_out_prompts, rating_counts
from storage.preferences import connect, named_query
from storage.schemas import COMPARISONS, TableWriter
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import ComparisonsRecipe, PeopleRecipe
from tasks.runtime import Runtime
from tasks.stage_run import tracker
from tasks.tables import dialog_from_json, held_out_draw, measure

TABLES = {
    "table6": "Comparisons by set, as Llama 2's Table 6",
    "table26": "Comparisons by batch, as Llama 2's Table 26",
    "grades": "How sure the annotators were, batch by batch",
    "safety_bins": "Which responses to unsafe prompts were safe",
    "agreement": "Agreement of the annotators who were asked the same",
    "length_bias": "How often the longer response is chosen",
    "risk_grid": "Coverage of risk categories and attack vectors",
}
"""Saved query -> what it says."""


class FrozenRecipe(Record):
    """A frozen batch of annotations; its rows are input, named by their content."""

    batch: str
    """Its name in the log."""


@task(name="comparisons", task_run_name="comparisons {recipe.batch}", cache_policy=NO_CACHE)
def comparisons(
    recipe: ComparisonsRecipe, newest: str, other: str, dialogs: str, seed: int, runtime: Runtime
) -> str:
    """Sample two answers a prompt and have them compared; what people have compared is there already, frozen.

    Raises StorageError where their batch is not.
    """
    if isinstance(recipe.annotator, PeopleRecipe):
        return frozen_batch(recipe.batch, runtime, newest)
    parents = {"newest": newest, "other": other, "dialogs": dialogs}
    return build(Job(f"comparisons {recipe.batch}", "comparisons", recipe, seed, parents), runtime)


@task(name="frozen batch", task_run_name="frozen batch {batch}", cache_policy=NO_CACHE)
def frozen_batch(batch: str, runtime: Runtime, tokenizer: str = "") -> str:
    """Make a frozen batch of the log an artifact; with a tokenizer's artifact, lengths are counted in its tokens.

    Raises StorageError when the batch is not frozen.
    """
    counter = Tokenizer.load(find(tokenizer, runtime).file("tokenizer.model")) if tokenizer else None
    with TemporaryDirectory(dir=runtime.home, prefix=".freeze-") as scratch:
        made = Path(scratch) / "comparisons.parquet"
        facts, digest = write_frozen(Store(runtime.store_root), batch, made, counter)
        job = Job(f"comparisons {batch}", "comparisons", FrozenRecipe(batch=batch), inputs={"rows": digest})

        def work(directory: Path) -> dict[str, Any]:
            made.replace(directory / made.name)
            return facts

        return build(job, runtime, work)


def write_frozen(
    store: Store, batch: str, path: Path, tokenizer: Tokenizer | None
) -> tuple[dict[str, Any], str]:
    """Write a frozen batch's comparisons; return what became of its annotations, and the digest of the rows."""
    content, counts = sha256(), Frozen()
    with closing(connect(store)) as db:
        held_out = held_out_prompts(db, batch, held_out_draw)
        with TableWriter(path, COMPARISONS) as table:
            for row in frozen_rows(db, batch, held_out, counts):
                if tokenizer:
                    dialog = dialog_from_json(row["dialog"])
                    row |= measure(dialog, row["chosen"], row["rejected"], tokenizer)
                content.update(json.dumps(row, sort_keys=True).encode())
                table.add(row)
        agreement = {
            domain: gwet_ac2(rating_counts(db, batch, domain == "safety"), ordinal_weights(8)).as_dict()
            for domain in ("helpfulness", "safety")
        }
    return {"comparisons": table.count, **asdict(counts), "agreement": agreement}, content.hexdigest()


@task(name="preference tables", task_run_name="preference tables", cache_policy=NO_CACHE)
def preference_tables(comparisons: str, runtime: Runtime) -> None:
    """Show the saved queries on all comparisons: tables in Prefect, and beside the newest comparisons in MLflow."""
    tracking = tracker(runtime)
    run_id = tracking.newest(find(comparisons, runtime).digest)
    with closing(connect(Store(runtime.store_root))) as db:
        for name, title in TABLES.items():
            found = db.execute(named_query(name))
            columns, rows = [column[0] for column in found.description or []], found.fetchall()
            table = [dict(zip(columns, row, strict=True)) for row in rows]
            key = f"preferences-{name.replace('_', '-')}"
            create_table_artifact(key=key, table=table, description=title)
            if run_id and rows:
                tracking.log_table(run_id, f"preferences/{name}.json", columns, rows)
