"""The tokenizer, trained on the corpus. Llama 2 section 2.2."""

import random
from itertools import chain
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import hashed_sample, train_tokenizer
from storage.sources.starter import arithmetic
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import TokenizerRecipe
from tasks.runtime import Runtime
from tasks.tables import read_texts

SAMPLE_BYTES = 1 << 20
"""Of the corpus, to tell how many characters a token stands for."""


@task(name="tokenizer", task_run_name="tokenizer", cache_policy=NO_CACHE)
def tokenizer(recipe: TokenizerRecipe, corpus: str, runtime: Runtime) -> str:
    """Train SentencePiece on the corpus and a sample of generated arithmetic."""

    def work(directory: Path) -> dict:
        corpus_path = find(corpus, runtime).path
        random_ = random.Random(derive_seed(0, "tokenizer"))
        pairs = arithmetic.operand_pairs(recipe.largest_operand, "train")
        sums = [arithmetic.problem_document(random_, pairs) for _ in range(recipe.arithmetic_documents)]
        sentences = (line for text in chain(read_texts(corpus_path), sums) for line in text.splitlines())
        trained = train_tokenizer(sentences, recipe.vocab_size, recipe.symbols, runtime.threads)
        (directory / "tokenizer.model").write_bytes(trained.model)
        sample = hashed_sample(read_texts(corpus_path), SAMPLE_BYTES)
        pieces = sum(map(len, trained.encode_many(sample, runtime.threads)))
        characters = sum(map(len, sample))
        return {"vocab_size": trained.vocab_size, "characters_per_token": characters / pieces}

    return build(Job("tokenizer", "tokenizer", recipe, parents={"corpus": corpus}), runtime, work)
