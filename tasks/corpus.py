"""The corpus stage: raw sources in, documents worth learning from out, each refusal on record (section 2.1).

Each group of a source is filtered alone; then duplicates are found over all; then each group is written again without
them. Groups that are done are not done again.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.errors import DataError
from storage.duplicates import NO_SITE, find_duplicates
from storage.schemas import QUARANTINED, read_rows, write_table
from storage.sources.documents import Quarantined
from tasks.corpus_groups import COUNTS, filter_group, finish_group, read_repeats
from tasks.corpus_recipe import CorpusRecipe
from tasks.corpus_sources import Group, corpus_identity, plan, read_group
from tasks.corpus_steps import first_steps, last_steps, readable
from tasks.corpus_summary import corpus_summary
from tasks.jobs import Job
from tasks.launch import build
from tasks.runtime import Runtime
from tasks.spread import Spread, in_turn, spread


@task(name="corpus", task_run_name="corpus", cache_policy=NO_CACHE)
def corpus(recipe: CorpusRecipe, runtime: Runtime) -> str:
    """Build the corpus from its sources; local files count by content."""
    job = Job("corpus", "corpus", recipe, inputs=corpus_identity(recipe))
    return build(
        job, runtime, lambda directory: build_corpus(recipe, directory, partial(spread, runtime=runtime))
    )


def build_corpus(recipe: CorpusRecipe, directory: Path, spread: Spread = in_turn) -> dict[str, Any]:
    """Write documents/ and dropped/, a file a group; return counts for the manifest.

    Raises DataError, saying which step dropped what, when nothing is left; SourceError and MissingPackage.
    """
    scratch, groups = directory / "checkpoints", plan(recipe.sources)
    for folder in ("documents", "dropped", "checkpoints/filtered"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    spread("filter", partial(filter_documents, recipe=recipe, directory=directory), groups)
    quarantined = list(unreadable(directory, groups, recipe.quarantine_share))
    write_table(directory / "quarantined.parquet", quarantined, QUARANTINED)
    duplicates = scratch / "duplicates.parquet"
    if not duplicates.exists():
        signatures = [filtered(directory, group) / "signatures.parquet" for group in groups]
        sites = recipe.personal_sites
        limits = (sites.documents, sites.data_per_document) if sites else NO_SITE
        find_duplicates(signatures, recipe.near_duplicate_threshold, scratch / "spill", duplicates, limits)
    spread("write", partial(write_documents, recipe=recipe, directory=directory), groups)
    return corpus_summary(directory, [source.name for source in recipe.sources], quarantined)


def filter_documents(group: Group, recipe: CorpusRecipe, directory: Path) -> None:
    """Read a group and filter it, unless that is done."""
    folder = filtered(directory, group)
    if not (folder / COUNTS).exists():
        folder.mkdir(exist_ok=True)
        items = (
            item if isinstance(item, Quarantined) else readable(item, recipe) for item in read_group(group)
        )
        filter_group(group.source.name, items, first_steps(recipe), folder)


def unreadable(directory: Path, groups: Sequence[Group], allowed: float) -> Iterator[dict[str, Any]]:
    """Yield the QUARANTINED rows. Raises DataError naming places where a source has more of them than is allowed."""
    for source, together in groupby(groups, key=lambda group: group.source):
        folders = [filtered(directory, group) for group in together]
        rows = [row for folder in folders for row in read_rows(folder / "quarantined.parquet", QUARANTINED)]
        yield from rows
        lost = [row for row in rows if row["reason"] != "empty"]
        read = sum(sum(json.loads((folder / COUNTS).read_text()).values()) for folder in folders)
        if lost and len(lost) > allowed * (read + len(lost)):
            places = "; ".join(f"{row['place']}: {row['detail']}" for row in lost[:3])
            raise DataError(
                f"source {source.name}: {len(lost)} of {read + len(lost)} documents cannot be read, more than "
                f"{100 * allowed:g}%: {places}. Mend them, or raise corpus.quarantine_share."
            )


def write_documents(group: Group, recipe: CorpusRecipe, directory: Path) -> None:
    """Write a group without what repeats others, measured and scrubbed, unless that is done."""
    documents, dropped = (
        directory / kind / f"{group.number:05d}.parquet" for kind in ("documents", "dropped")
    )
    if not documents.exists():  # the last to appear
        repeats = read_repeats(directory / "checkpoints" / "duplicates.parquet", group.number)
        finish_group(filtered(directory, group), repeats, last_steps(recipe), documents, dropped)


def filtered(directory: Path, group: Group) -> Path:
    return directory / "checkpoints" / "filtered" / f"{group.number:05d}"
