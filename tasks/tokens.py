"""Token shards: the pretraining mix as Parquet rows of fixed length. Llama 2 section 2.1."""

import random
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.data.packing import pack_stream
from llama2_core.errors import DataError
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from storage.shards import write_shards
from storage.sources.starter import arithmetic
from tasks.launch import Job, build, find
from tasks.recipes import TokensRecipe
from tasks.runtime import Runtime
from tasks.tables import read_texts

Text = Callable[[], str]
BATCH = 256


@task(name="tokens", task_run_name="tokens", cache_policy=NO_CACHE)
def tokens(recipe: TokensRecipe, corpus: str, tokenizer: str, seed: int, runtime: Runtime) -> str:
    """Tokenize the mix, shuffle documents, pack rows, write shards."""
    parents = {"corpus": corpus, "tokenizer": tokenizer}

    def work(directory: Path) -> dict:
        texts = list(read_texts(find(corpus, runtime).path))
        trained = Tokenizer.load(find(tokenizer, runtime).file("tokenizer.model"))
        return write_mix(recipe, texts, trained, seed, runtime.threads, directory)

    return build(Job("tokens", "tokens", recipe, seed, parents), runtime, work)


def write_mix(
    recipe: TokensRecipe, texts: list[str], tokenizer: Tokenizer, seed: int, threads: int, directory: Path
) -> dict:
    """Write train and validation shards; return tokens and epochs by source."""
    random_ = random.Random(derive_seed(seed, "mix"))
    random_.shuffle(texts)
    pairs = arithmetic.operand_pairs(recipe.largest_operand, "train")
    fact_pairs = arithmetic.operand_pairs(recipe.largest_fact_operand, "train")
    prose = tokenizer.encode_many(texts, threads)
    framed = [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in prose]
    rows = list(pack_stream(framed, recipe.row_tokens))
    kept = recipe.validation_rows
    if recipe.prose_share and len(rows) <= 2 * kept:
        raise DataError(
            f"the corpus fills {len(rows)} rows of {recipe.row_tokens} tokens; {kept} are kept for validation "
            "and as many are needed to train: add documents or lower tokens.validation_rows"
        )
    random_.shuffle(rows)
    validation, prose_rows = rows[:kept], rows[kept:]
    budgets = {
        name: round(share * recipe.total_tokens / recipe.row_tokens)
        for name, share in (
            ("prose", recipe.prose_share),
            ("problems", recipe.problem_share),
            ("facts", recipe.fact_share),
        )
    }
    epochs = budgets["prose"] / len(prose_rows)
    mixed = [prose_rows[index % len(prose_rows)] for index in range(budgets["prose"])]
    generators: dict[str, Text] = {
        "problems": lambda: arithmetic.problem_document(random_, pairs),
        "facts": lambda: arithmetic.fact_document(random_, fact_pairs),
    }
    for name, text in generators.items():
        stream = pack_stream(documents(text, tokenizer, threads), recipe.row_tokens)
        mixed += [row for _, row in zip(range(budgets[name]), stream, strict=False)]
    random_.shuffle(mixed)
    write_shards(directory, "train", mixed, recipe.row_tokens)
    write_shards(directory, "validation", validation, recipe.row_tokens)
    largest = int(np.max([row.max() for row in chain(mixed[:1000], validation)]))
    assert largest < tokenizer.vocab_size
    return {
        "rows": len(mixed),
        "tokens": len(mixed) * recipe.row_tokens,
        "validation_rows": len(validation),
        "row_shares": {name: count / len(mixed) for name, count in budgets.items()},
        "prose_epochs": epochs,
    }


def documents(text: Text, tokenizer: Tokenizer, threads: int) -> Iterator[list[int]]:
    """Generate documents without end, encoded and framed by BOS and EOS."""
    while True:
        for ids in tokenizer.encode_many([text() for _ in range(BATCH)], threads):
            yield [tokenizer.bos_id, *ids, tokenizer.eos_id]
