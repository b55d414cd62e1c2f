"""A group of the tokens stage: one file of documents, or a number of rows to generate, as one shard.

What a shard holds depends on the group, the recipe and the seed only, not on the number of workers.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from llama2_core.data.packing import StreamPacker
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from storage.shards import ShardWriter
from storage.sources.starter import arithmetic
from tasks.recipes import TokensRecipe

BATCH = 256
"""Documents encoded at once."""


@dataclass(frozen=True)
class TokenGroup:
    """One shard to be."""

    number: int
    source: str
    source_number: int
    documents: Path | None = None
    """A file of the corpus; absent where text is generated."""
    part: int = 0
    """Of a generated source."""
    rows: int = 0
    """To generate."""


@dataclass(frozen=True)
class Encoding:
    """What every group needs to know."""

    recipe: TokensRecipe
    tokenizer: Path
    seed: int
    threads: int
    directory: Path


def write_group(group: TokenGroup, encoding: Encoding) -> None:
    """Write a group's training and validation shards, unless that is done."""
    names = [encoding.directory / f"{split}-{group.number:05d}.parquet" for split in ("train", "validation")]
    if not names[0].exists():  # the last to appear
        tokenizer = Tokenizer.load(encoding.tokenizer)
        shape = (encoding.recipe.row_tokens, tokenizer.vocab_size, group.source_number)
        with ShardWriter(names[0], *shape) as learned, ShardWriter(names[1], *shape) as held_out:
            if group.documents:
                bound = _held_out_to(group.documents, encoding, at_least_one=group.number == 0)
                count = _encode(group.documents, bound, tokenizer, encoding, learned, held_out)
            else:
                count = _generate(group, tokenizer, encoding, learned)
            held_out.about = {"source": group.source}
            learned.about = {"source": group.source, "documents": count}


def _encode(
    documents: Path,
    bound: float,
    tokenizer: Tokenizer,
    encoding: Encoding,
    learned: ShardWriter,
    held_out: ShardWriter,
) -> int:
    """Encode a file of the corpus; documents of a chance up to `bound` are held out. Return how many are learned."""
    packers = {writer: StreamPacker(encoding.recipe.row_tokens) for writer in (learned, held_out)}
    count = 0
    for batch in _texts(documents, ["id", "text"]):
        framed: dict[ShardWriter, list[list[int]]] = {learned: [], held_out: []}
        encoded = tokenizer.encode_many([text for _, text in batch], encoding.threads)
        for (id_, _), ids in zip(batch, encoded, strict=True):
            writer = held_out if _chance(id_, encoding.seed) <= bound else learned
            framed[writer].append([tokenizer.bos_id, *ids, tokenizer.eos_id])
        for writer, packer in packers.items():
            writer.add(*packer.add(framed[writer]))
        count += len(framed[learned])
    return count


def held_out_texts(group: TokenGroup, encoding: Encoding) -> Iterator[str]:
    """Yield the documents of a group of the corpus that are held out; no tokenizer is needed to know them."""
    assert group.documents
    bound = _held_out_to(group.documents, encoding, at_least_one=group.number == 0)
    for batch in _texts(group.documents, ["id", "text"]):
        yield from (text for id_, text in batch if _chance(id_, encoding.seed) <= bound)


def _texts(documents: Path, columns: list[str]) -> Iterator[list[tuple[str, ...]]]:
    with pq.ParquetFile(documents) as file:
        for batch in file.iter_batches(BATCH, columns=columns):
            yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _held_out_to(documents: Path, encoding: Encoding, at_least_one: bool) -> float:
    """Return the chance up to which a document is held out."""
    share = encoding.recipe.validation_share
    if not at_least_one:
        return share
    chances = (_chance(id_, encoding.seed) for batch in _texts(documents, ["id"]) for (id_,) in batch)
    return max(share, min(chances))


def _chance(id_: str, seed: int) -> float:
    return random.Random(derive_seed(seed, "validation", id_)).random()


def _generate(group: TokenGroup, tokenizer: Tokenizer, encoding: Encoding, learned: ShardWriter) -> int:
    """Generate documents until they fill the rows. Return how many."""
    recipe = encoding.recipe
    random_ = random.Random(derive_seed(encoding.seed, group.source, group.part))
    operand = {"problems": recipe.largest_operand, "facts": recipe.largest_fact_operand}[group.source]
    write = {"problems": arithmetic.problem_document, "facts": arithmetic.fact_document}[group.source]
    pairs, packer, count = (
        arithmetic.operand_pairs(operand, "train"),
        StreamPacker(recipe.row_tokens),
        0,
    )
    while learned.rows < group.rows:
        encoded = tokenizer.encode_many([write(random_, pairs) for _ in range(BATCH)], encoding.threads)
        tokens, begins = packer.add([tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in encoded)
        left = group.rows - learned.rows
        learned.add(tokens[:left], begins[:left])
        count += BATCH
    return count
