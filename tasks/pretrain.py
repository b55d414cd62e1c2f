"""Pretraining. Llama 2 section 2.2."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from llama2_core.errors import DataError
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import PretrainRecipe
from tasks.runtime import Runtime


@task(name="pretrain", task_run_name="pretrain", cache_policy=NO_CACHE)
def pretrain(recipe: PretrainRecipe, tokens: str, tokenizer: str, seed: int, runtime: Runtime) -> str:
    """Train the base model on token shards."""
    refuse_other_tokenizer(tokens, tokenizer, runtime)
    parents = {"tokens": tokens, "tokenizer": tokenizer}
    return build(Job("pretraining", "base", recipe, seed, parents, processes=runtime.processes), runtime)


def refuse_other_tokenizer(tokens: str, tokenizer: str, runtime: Runtime) -> None:
    """Raise DataError when token shards were written by another tokenizer than the model will have."""
    shards, ours = find(tokens, runtime), find(tokenizer, runtime)
    wrote = shards.manifest.parents.get("tokenizer", "")
    if (
        wrote
        and find(wrote, runtime).file("tokenizer.model").read_bytes()
        != ours.file("tokenizer.model").read_bytes()
    ):
        raise DataError(
            f"{shards.name} was written by {wrote[:22]}, not by {ours.name}: their ids mean other pieces. Take that "
            "tokenizer, or write the tokens again."
        )
