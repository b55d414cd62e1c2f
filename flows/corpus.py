"""From raw documents to token shards. Llama 2 section 2.1."""

from prefect import flow

from llama2_core.data.mixture import SourceWeight
from tasks.corpus import corpus as corpus_task
from tasks.corpus_recipe import CorpusRecipe
from tasks.data_card import data_card as data_card_task
from tasks.recipes import TokenizerRecipe, TokensRecipe
from tasks.runtime import Runtime
from tasks.tokenizer import tokenizer as tokenizer_task
from tasks.tokens import tokens as tokens_task


@flow(name="corpus", flow_run_name="corpus")
def corpus(recipe: CorpusRecipe = CorpusRecipe(), runtime: Runtime = Runtime()) -> str:
    """Filter and deduplicate documents."""
    return corpus_task(recipe, runtime)


@flow(name="tokenizer", flow_run_name="tokenizer")
def tokenizer(
    recipe: TokenizerRecipe = TokenizerRecipe(), corpus: str = "corpus", runtime: Runtime = Runtime()
) -> str:
    """Train the tokenizer on a corpus, by default the newest."""
    return tokenizer_task(recipe, corpus, runtime)


@flow(name="tokens", flow_run_name="tokens, seed {seed}")
def tokens(
    recipe: TokensRecipe = TokensRecipe(),
    corpus: str = "corpus",
    tokenizer: str = "tokenizer",
    seed: int = 0,
    runtime: Runtime = Runtime(),
    weights: dict[str, SourceWeight] | None = None,
) -> str:
    """Write the pretraining mix as token shards; `weights` by the corpus' sources, without them 1 each."""
    return tokens_task(recipe, corpus, tokenizer, seed, runtime, weights)


@flow(name="data card", flow_run_name="data card")
def data_card(corpus: str = "corpus", tokens: str = "", runtime: Runtime = Runtime()) -> str:
    """Say what a corpus, by default the newest, holds and left out, and with tokens its part in the mix."""
    return data_card_task(corpus, tokens, runtime)
