"""Adaptation of a trained model: its start, continued pretraining, how far it came, and its export."""
# ruff: noqa: PLC0415  (torch takes seconds)

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.config import ModelConfig, Record
from llama2_core.errors import DataError
from llama2_core.seeding import derive_seed
from storage.artifacts import Store
from tasks.adapt_recipe import ContinueRecipe, Format, StartRecipe
from tasks.card_facts import known_of
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.model_card import model_card
from tasks.recipes import PretrainRecipe, TokensRecipe
from tasks.runtime import Runtime
from tasks.token_groups import Encoding, held_out_texts
from tasks.tokens import corpus_groups

MEASURED_DOCUMENTS = 2000
"""Held-out documents that models are measured on, at most."""


class ExportRecipe(Record):
    """A format to leave in."""

    format: Format


@task(name="start", task_run_name="start", cache_policy=NO_CACHE)
def start(recipe: StartRecipe, model: str, added: str, runtime: Runtime) -> str:
    """Add another tokenizer's pieces (none, if `added` is empty) and lengthen the context, as the recipe says."""
    if not added and not recipe.context:
        return model
    parents = {"model": model} | ({"added": added} if added else {})

    def work(directory: Path) -> dict[str, Any]:
        from llama2_core.interop import native
        from llama2_core.tokenizer import Tokenizer
        from llama2_core.vocabulary import extend_model, extend_tokenizer

        opened = native.read(find(model, runtime).path)
        before = opened.tokenizer.vocab_size
        if added:
            other = Tokenizer.load(find(added, runtime).file("tokenizer.model"))
            opened = extend_model(opened, extend_tokenizer(opened.tokenizer, other))
        if recipe.context:
            changes = {name: getattr(recipe.context, name) for name in type(recipe.context).model_fields}
            opened = replace(opened, config=opened.config.model_copy(update=changes))
        native.write(opened, directory)
        return {"vocab_size": opened.tokenizer.vocab_size, "added": opened.tokenizer.vocab_size - before}

    return build(Job("start of the adaptation", "base", recipe, parents=parents), runtime, work)


@task(name="continued pretraining", task_run_name="continued pretraining", cache_policy=NO_CACHE)
def continued(recipe: ContinueRecipe, model: str, tokens: str, seed: int, runtime: Runtime) -> str:
    """Go on pretraining a model on token shards written by its tokenizer."""
    shape = ModelConfig.model_validate_json(find(model, runtime).file("config.json").read_text())
    pretrain = PretrainRecipe(model=shape, loop=recipe.loop, separate_documents=recipe.separate_documents)
    parents = {"tokens": tokens, "tokenizer": model, "start": model}
    job = Job("continued pretraining", "base", pretrain, seed, parents, processes=runtime.processes)
    return build(job, runtime)


@task(name="adaptation", task_run_name="adaptation", cache_policy=NO_CACHE)
def adaptation(recipe: TokensRecipe, models: dict[str, str], corpus: str, seed: int, runtime: Runtime) -> str:
    """Measure models on the documents that the tokens stage held out: characters a token, bits a character."""

    def work(directory: Path) -> dict[str, Any]:
        import torch

        from llama2_core.evaluation.compression import compress
        from llama2_core.training.checkpoint import load_config, load_policy

        torch.set_num_threads(runtime.threads)
        texts = held_out(recipe, find(corpus, runtime).file("documents"), seed)
        paths = {name: find(model, runtime).path for name, model in models.items()}
        window = min(load_config(path).max_seq_len for path in paths.values())
        found = {name: compress(*load_policy(path), texts, window) for name, path in paths.items()}
        return {
            "held_out_documents": len(texts),
            "held_out_characters": sum(map(len, texts)),
            **{
                name: {
                    "characters_per_token": each.characters_per_token,
                    "bits_per_character": each.bits_per_character,
                }
                for name, each in found.items()
            },
        }

    job = Job("adaptation", "adaptation", recipe, seed, {**models, "corpus": corpus})
    return build(job, runtime, work)


def held_out(recipe: TokensRecipe, documents: Path, seed: int) -> list[str]:
    """Return texts that the tokens stage holds out, whatever the tokenizer; a sample of many."""
    encoding = Encoding(recipe, Path(), seed, 1, Path())
    texts = [text for group in corpus_groups(documents) for text in held_out_texts(group, encoding) if text]
    if not texts:
        raise DataError(
            f"the corpus holds out no document: raise tokens.validation_share, now {recipe.validation_share:g}"
        )
    return random.Random(derive_seed(seed, "measured")).sample(texts, min(len(texts), MEASURED_DOCUMENTS))


@task(name="export", task_run_name="export to {format}", cache_policy=NO_CACHE)
def export(model: str, format: Format, runtime: Runtime) -> str:
    """Write a model in another format, read back and found equal, with a card of what the store has on it."""
    artifact = find(model, runtime)
    label = f"{artifact.kind}-{artifact.digest[:12]}"
    known = known_of(label, artifact, Store(runtime.store_root))

    def work(directory: Path) -> dict[str, Any]:
        from llama2_core.interop.convert import convert

        name = "model.gguf" if format == "gguf" else format
        compared = convert(artifact.path, directory / name, format, card=model_card(known, format))
        return {"largest_difference": compared.largest}

    parents = {"model": model, **{role: about.full_name for role, about in known.found.items()}}
    return build(
        Job(f"export to {format}", "export", ExportRecipe(format=format), parents=parents), runtime, work
    )
