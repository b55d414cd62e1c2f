"""Pretraining. Llama 2 section 2.2."""

from prefect import flow

from tasks.pretrain import pretrain as pretrain_task
from tasks.recipes import PretrainRecipe
from tasks.runtime import Runtime


@flow(name="pretrain", flow_run_name="pretrain, seed {seed}")
def pretrain(
    recipe: PretrainRecipe = PretrainRecipe(),
    tokens: str = "tokens",
    tokenizer: str = "tokenizer",
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Train the base model."""
    return pretrain_task(recipe, tokens, tokenizer, seed, runtime)
