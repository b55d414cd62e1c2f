"""The recipe as far as its data: what `llama2 data build` runs. Llama 2 section 2.1."""

from prefect import flow

from flows.corpus import corpus, data_card, tokenizer, tokens
from tasks.recipes import Llama2Recipe
from tasks.runtime import Runtime


@flow(name="data", flow_run_name="data, seed {recipe.seed}")
def data(recipe: Llama2Recipe = Llama2Recipe(), runtime: Runtime = Runtime()) -> dict[str, str]:
    """Return the artifacts made: corpus, tokenizer, tokens and card."""
    documents = corpus(recipe.corpus, runtime)
    vocabulary = tokenizer(recipe.tokenizer, documents, runtime)
    shards = tokens(recipe.tokens, documents, vocabulary, recipe.seed, runtime, recipe.corpus.weights)
    card = data_card(documents, shards, runtime)
    return {"corpus": documents, "tokenizer": vocabulary, "tokens": shards, "card": card}
