"""What defines an adaptation: a trained model goes on learning, another language say. No prefect, no torch."""

from typing import Literal, Self

from pydantic import model_validator

from llama2_core.config import LoopConfig, OptimizerConfig, Positive, Record, RopeScaling
from tasks.corpus_recipe import CorpusRecipe
from tasks.recipes import FineTuneRecipe, TokenizerRecipe, TokensRecipe

Format = Literal["huggingface", "gguf", "meta"]


class LongerContext(Record):
    """A context that the model was not trained at."""

    max_seq_len: Positive
    """Longest sequence from now on."""
    rope_scaling: RopeScaling | None = None
    """How its positions are stretched; without it they go on as they are."""


class StartRecipe(Record):
    """What is changed in a model before it goes on learning."""

    context: LongerContext | None = None
    """A longer context."""


class ContinueRecipe(Record):
    """Continued pretraining."""

    loop: LoopConfig = LoopConfig(
        steps=1000, rows=64, optimizer=OptimizerConfig(peak_learning_rate=1e-4, warmup_steps=50)
    )
    """Updates and optimizer; Llama-Chinese's rate is 1e-4."""
    separate_documents: bool = False
    """Let no token see the documents before its own in a row."""


class AdaptRecipe(Record):
    """The path of Llama-Chinese: more vocabulary, continued pretraining, fine-tuning, export."""

    corpus: CorpusRecipe = CorpusRecipe()
    """Text to go on with."""
    vocabulary: TokenizerRecipe | None = None
    """A second tokenizer, trained on that text, whose pieces are added."""
    start: StartRecipe = StartRecipe()
    """Other changes before learning goes on."""
    tokens: TokensRecipe = TokensRecipe()
    """Rows, and what is held out to measure on."""
    pretrain: ContinueRecipe = ContinueRecipe()
    """Continued pretraining."""
    sft: FineTuneRecipe = FineTuneRecipe()
    """Fine-tuning on dialogs, all weights or adapters."""
    export: tuple[Format, ...] = ("huggingface",)
    """Formats in which the chat model leaves."""

    @model_validator(mode="after")
    def _formats_know_the_positions(self) -> Self:
        scaling = self.start.context.rope_scaling if self.start.context else None
        if scaling and "meta" in self.export:
            raise ValueError("export: Meta's format has no rope_scaling; leave it out, or the scaling")
        if scaling and scaling.method != "linear" and "gguf" in self.export:
            raise ValueError(f"export: GGUF knows linear rope_scaling only, not {scaling.method}")
        return self
