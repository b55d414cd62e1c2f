"""Token shards: the corpus and generated arithmetic as Parquet rows of fixed length, and their mix (section 2.1)."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.data.mixture import Segment, SourceWeight, allot
from llama2_core.errors import DataError
from storage.shards import TokenShards
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.mixture import write_mixture
from tasks.recipes import TokensRecipe
from tasks.runtime import Runtime
from tasks.spread import Spread, in_turn, spread
from tasks.token_groups import Encoding, TokenGroup, write_group

GENERATED = ("problems", "facts")
GENERATED_ROWS = 1 << 16
"""Of a shard of generated text, at most."""


@task(name="tokens", task_run_name="tokens", cache_policy=NO_CACHE)
def tokens(
    recipe: TokensRecipe,
    corpus: str,
    tokenizer: str,
    seed: int,
    runtime: Runtime,
    weights: dict[str, SourceWeight] | None = None,
) -> str:
    """Encode the corpus and generated arithmetic into shards; `weights` are those of the corpus' sources."""
    parents = {"corpus": corpus, "tokenizer": tokenizer}
    said = {name: weight.model_dump() for name, weight in (weights or {}).items() if weight != SourceWeight()}

    def work(directory: Path) -> dict[str, Any]:
        threads = runtime.threads if runtime.data_workers == 1 else 1
        trained = find(tokenizer, runtime).file("tokenizer.model")
        encoding = Encoding(recipe, trained, seed, threads, directory)
        documents = find(corpus, runtime).file("documents")
        return write_tokens(encoding, documents, weights or {}, partial(spread, runtime=runtime))

    job = Job("tokens", "tokens", recipe, seed, parents, {"weights": said} if said else {})
    return build(job, runtime, work)


def write_tokens(
    encoding: Encoding, documents: Path, weights: dict[str, SourceWeight], spread: Spread = in_turn
) -> dict[str, Any]:
    """Write train and validation shards and mix.json; return tokens, passes and shares by source.

    Raises DataError when the corpus is too small to hold some of it out.
    """
    recipe, work = encoding.recipe, partial(write_group, encoding=encoding)
    groups = list(corpus_groups(documents))
    spread("encode", work, groups)
    found = _segments(encoding.directory)  # after a kill generated text too
    prose = {segment.source: segment.rows for segment in found if segment.source not in GENERATED}
    _require_both(sum(prose.values()), len(TokenShards(encoding.directory, "validation")), recipe)
    draws = allot(prose, weights, recipe.rows_of(recipe.prose_share))
    total = recipe.rows_of(1.0) or round(sum(draws.values()) / recipe.prose_share)
    spread("generate", work, list(_generated_groups(recipe, total, len(groups), len(prose))))
    segments = [
        segment.model_copy(update={"draws": draws.get(segment.source, segment.rows)})
        for segment in _segments(encoding.directory)
    ]
    return _summary(encoding.directory, recipe, segments)


def corpus_groups(documents: Path) -> Iterator[TokenGroup]:
    """Yield a group for each file that holds a document, the sources numbered as they come."""
    numbers: dict[str, int] = {}
    number = 0
    for path in sorted(documents.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            first = next(file.iter_batches(1, columns=["source"]), None)
        if first is not None and len(first):
            source = first.column(0)[0].as_py()
            if source in GENERATED:
                raise DataError(
                    f"a source of the corpus is called {source!r}, as generated text is: rename it"
                )
            yield TokenGroup(number, source, numbers.setdefault(source, len(numbers)), path)
            number += 1


def _generated_groups(recipe: TokensRecipe, total: int, number: int, source: int) -> Iterator[TokenGroup]:
    """Yield the groups of generated text, as many rows as they are due of `total`."""
    for name, share in zip(GENERATED, (recipe.problem_share, recipe.fact_share), strict=True):
        rows = round(share * total)
        for part, start in enumerate(range(0, rows, GENERATED_ROWS)):
            size = min(GENERATED_ROWS, rows - start)
            yield TokenGroup(number, name, source, part=part, rows=size)
            number += 1
        source += 1


def _segments(directory: Path) -> list[Segment]:
    """Return each source's stretch of rows, drawn once."""
    found: list[Segment] = []
    for source, shards in groupby(TokenShards(directory, "train").about, key=lambda about: about["source"]):
        rows = sum(about["rows"] for about in shards)
        first = found[-1].first_row + found[-1].rows if found else 0
        found.append(Segment(source=source, first_row=first, rows=rows, draws=rows))
    return found


def _require_both(learned: int, held_out: int, recipe: TokensRecipe) -> None:
    if not learned or not held_out:
        raise DataError(
            f"the corpus fills {learned} rows of {recipe.row_tokens} tokens to train on and {held_out} to validate "
            f"on: add documents or change tokens.validation_share, now {recipe.validation_share:g}"
        )


def _summary(directory: Path, recipe: TokensRecipe, segments: Sequence[Segment]) -> dict[str, Any]:
    drawn = sum(segment.draws for segment in segments)
    if not drawn:
        raise DataError(f"the mix holds no row of {recipe.row_tokens} tokens: raise tokens.total_tokens")
    shards = TokenShards(directory, "train")
    documents = {segment.source: 0 for segment in segments}
    for about in shards.about:
        documents[about["source"]] += about["documents"]
    return {
        "rows": drawn,
        "tokens": drawn * recipe.row_tokens,
        "stored_rows": len(shards),
        "validation_rows": len(TokenShards(directory, "validation")),
        "fingerprint": write_mixture(directory, list(segments)),
        "sources": {
            segment.source: {
                "documents": documents[segment.source],
                "tokens": segment.rows * recipe.row_tokens,
                "epochs": segment.epochs,
                "share": segment.draws / drawn,
            }
            for segment in segments
        },
    }
