"""What defines a stage's result: every field here enters the digest of what it makes. No prefect, no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llama2_core.config import (
    Bits,
    LoopConfig,
    LoRAConfig,
    ModelConfig,
    Natural,
    OptimizerConfig,
    Positive,
    PositiveFloat,
    PPOConfig,
    Precision,
    Record,
    RewardConfig,
    SamplingConfig,
    Share,
)
from llama2_core.presets import TINY_0_9M
from llama2_core.rlhf.diagnosis import Bounds
from tasks.corpus_recipe import CorpusRecipe
from tasks.reward_recipe import AblationRecipe, RewardRecipe, RewardReportRecipe
from tasks.sampling_recipe import RejectionRecipe, SamplingRecipe, ServerAddress

SYMBOLS = ("[INST]", "[/INST]")


class TokenizerRecipe(Record):
    """The tokenizer, trained on the corpus and a sample of arithmetic. Llama 2 section 2.2."""

    vocab_size: Positive = 1024
    """Pieces. Llama 2: 32,000."""
    largest_operand: Positive = 10
    """Of the sums, as in the tokens."""
    symbols: tuple[str, ...] = SYMBOLS
    """Strings that become one piece each: the chat template's tags cost a small model dearly otherwise."""
    arithmetic_documents: Natural = 0
    """Generated documents shown to the trainer beside the corpus."""


class TokensRecipe(Record):
    """Token shards: the mix that the base model sees. Llama 2 section 2.1."""

    total_tokens: Positive | Literal["all"] = "all"
    """Tokens of one pass over the mix, all sources together; all: the corpus as often as its sources' weights say."""
    row_tokens: Positive = 129
    """Tokens a row: the context, and one more to predict."""
    prose_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Corpus documents."""
    problem_share: Share = 0.0
    """Generated word problems with their solutions."""
    fact_share: Share = 0.0
    """Generated bare facts: runs of neighbours, countings, families of sums and differences, single ones."""
    largest_operand: Positive = 10
    """Largest number in a word problem's sum or difference."""
    largest_fact_operand: Positive = 20
    """Largest number in a bare fact; the wider, the less a model can know by heart."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Documents of the corpus that are held out for the validation loss."""

    @model_validator(mode="after")
    def _shares_are_the_whole(self) -> Self:
        total = self.prose_share + self.problem_share + self.fact_share
        if abs(total - 1) > 1e-6:
            raise ValueError(f"prose_share, problem_share and fact_share add up to {total:g}, expected 1")
        return self

    def rows_of(self, share: float) -> int | None:
        """Return the rows that are a share of the budget, None where there is none."""
        return None if self.total_tokens == "all" else round(share * self.total_tokens / self.row_tokens)


class DataCardRecipe(Record):
    """What the data card of a corpus shows. Llama 2 sections 2.1 and 4.1."""

    examples: Positive = 10
    """Dropped documents shown for each reason."""
    languages_from: Share = 0.00005
    """Share of the documents read from which a language is listed. Llama 2: 0.005%."""


class PretrainRecipe(Record):
    """The base model. Llama 2 section 2.2."""

    model: ModelConfig = TINY_0_9M
    """Shape; its vocabulary must be the tokenizer's."""
    loop: LoopConfig = LoopConfig(
        steps=1900, rows=16, optimizer=OptimizerConfig(peak_learning_rate=3e-3, warmup_steps=50)
    )
    """Updates and optimizer."""
    label_smoothing: Share = 0.0
    """Share of each target spread over the vocabulary. Llama 2 uses none."""
    separate_documents: bool = False
    """Let no token see the documents before its own in a row, and count positions anew. Llama 2 does not say."""


class DialogsRecipe(Record):
    """Demonstrations and prompts of the starter data: chat, arithmetic, definitions, safety."""

    demonstrations: Positive = 4000
    """Dialogs for SFT, of deliberately mixed quality."""
    train_prompts: Positive = 4500
    """Prompts for comparisons, rejection sampling and PPO."""
    held_out_prompts: Positive = 700
    """Prompts for evaluation; no operand pair, word, conversation or unsafe act of theirs is trained on."""
    multiple_choice: Positive = 200
    """Questions of the dictionary benchmark, four choices each."""
    largest_operand: Positive = 10
    """As in the tokens."""


class FineTuneRecipe(Record):
    """Fine-tuning on answers only, packed. Llama 2 section 3.1."""

    epochs: Positive = 2
    """Passes over the dialogs. Llama 2: 2."""
    rows: Positive = 16
    """Packed rows an update. Llama 2: 64."""
    precision: Precision = "float32"
    """Of matrix products and activations."""
    separate_dialogs: bool = False
    """Let no token see the dialogs before its own in a row, and count positions anew. Llama 2 does not say."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dialogs held out for a validation loss."""
    optimizer: OptimizerConfig = OptimizerConfig(peak_learning_rate=2e-3, warmup_steps=10)
    """Llama 2: 2e-5, cosine."""
    lora: LoRAConfig | None = None
    """Train adapters instead of all weights."""
    base_bits: Bits | None = None
    """Under adapters, keep the frozen weights in 4 or 8 bits."""

    @model_validator(mode="after")
    def _only_frozen_weights_are_quantized(self) -> Self:
        if self.base_bits and not self.lora:
            raise ValueError("base_bits needs lora: quantized weights cannot be trained")
        return self


class SimulatedRecipe(Record):
    """The scripted annotator of the starter data."""

    kind: Literal["simulated"] = "simulated"
    """Simulated annotator."""
    noise: Share = 0.05
    """How often it picks the answer it likes less."""


class JudgeRecipe(Record):
    """A language model as annotator; each pair is shown in both orders, and dropped when the order decides."""

    kind: Literal["judge"] = "judge"
    """Language model."""
    server: ServerAddress
    """`http://host:port/v1#model`: a server with OpenAI's API, and the model's name there."""


class PeopleRecipe(Record):
    """People, on the annotation page: the batch is ordered there, and the flow goes on once it is complete."""

    kind: Literal["people"] = "people"
    """People."""
    most_held_out: Natural = 1000
    """Comparisons held out at most. Llama 2: 1,000 a batch."""


class ComparisonsRecipe(Record):
    """Two answers from two models at two temperatures, compared. Llama 2 section 3.2.1."""

    batch: str = "1"
    """Name of the batch; batches are weekly in the paper."""
    prompts: Positive = 2400
    """Prompts compared."""
    temperatures: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.0)
    """Of the newest and of the other model."""
    annotator: Annotated[SimulatedRecipe | JudgeRecipe | PeopleRecipe, Field(discriminator="kind")] = (
        SimulatedRecipe()
    )
    """Who compares them."""
    held_out_share: Share = 0.15
    """Held out for testing the reward models; the paper holds out 1,000 a batch."""
    sampling: SamplingRecipe = SamplingRecipe()
    """Answers."""


class PPORecipe(Record):
    """PPO from the rejection-sampling model. Llama 2 section 3.2.3."""

    ppo: PPOConfig = PPOConfig()
    """Algorithm."""
    optimizer: OptimizerConfig = OptimizerConfig(peak_learning_rate=1e-6, schedule="constant", warmup_steps=0)
    """Llama 2: constant 1e-6."""
    held_out_prompts: Positive = 256
    """Training prompts set aside for early stopping."""
    sampling: SamplingRecipe = SamplingRecipe()
    """Answers."""
    critic: Literal["helpfulness", "chat"] = "helpfulness"
    """What the value model begins from: the helpfulness reward model or the chat model. Not published."""
    lora: LoRAConfig | None = None
    """Train adapters of policy and value model on weights shared with their judges: a quarter of the memory."""
    bounds: Bounds = Bounds()
    """Beyond which a run is diagnosed, and stopped where it makes no sense any more."""

    @model_validator(mode="after")
    def _samples_what_it_scores(self) -> Self:
        if self.sampling.top_p < 1:
            raise ValueError("sampling.top_p must be 1: PPO scores tokens under the whole distribution")
        return self


class EvaluationRecipe(Record):
    """How a checkpoint is examined."""

    prompt_format: Literal["chat", "completion"] = "chat"
    """Chat template, or "Question: ... Answer:" for a base model."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48)
    """Of answers that are judged side by side: the reference code's. Word problems are answered greedily too."""


class GateRecipe(Record):
    """When a PPO model replaces the rejection-sampling model it came from: win + tie / 2 above a half, and surely not
    far below."""

    least_win_rate: Share = 0.45
    """The lower 95% bound of win + tie / 2 must reach this."""


class RLHFRecipe(Record):
    """Iterative RLHF: comparisons, reward models, rejection sampling, again, then PPO. Llama 2 section 3.2."""

    first_comparisons: ComparisonsRecipe = ComparisonsRecipe()
    """Compared before any RLHF: two SFT models."""
    second_comparisons: ComparisonsRecipe = ComparisonsRecipe(batch="2")
    """Compared after rejection sampling: its model and the SFT model."""
    helpfulness: RewardRecipe = RewardRecipe()
    """Helpfulness reward model."""
    safety: RewardRecipe = RewardRecipe(
        domain="safety", other_share=0.1, reward=RewardConfig(safety_auxiliary_weight=1.0)
    )
    """Safety reward model."""
    reward_report: RewardReportRecipe = RewardReportRecipe()
    """What is measured of both, and what they must reach before a policy is optimised against them."""
    ablation: AblationRecipe | None = None
    """Variants of both, trained for the report; {} for the usual ones."""
    rejection: RejectionRecipe = RejectionRecipe()
    """Rejection sampling."""
    rejection_fine_tune: FineTuneRecipe = FineTuneRecipe()
    """Fine-tuning of the base model on the best samples."""
    ppo: PPORecipe = PPORecipe()
    """Proximal policy optimization."""
    gate: GateRecipe = GateRecipe()
    """Which of the two becomes the chat model."""


class Llama2Recipe(Record):
    """The whole recipe, from documents to an aligned chat model."""

    seed: Natural = 0
    """Root of every random stream."""
    corpus: CorpusRecipe = CorpusRecipe()
    """Filtered documents."""
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    """Vocabulary."""
    tokens: TokensRecipe = TokensRecipe()
    """Pretraining mix."""
    pretrain: PretrainRecipe = PretrainRecipe()
    """Base model."""
    dialogs: DialogsRecipe = DialogsRecipe()
    """Demonstrations and prompts."""
    sft: FineTuneRecipe = FineTuneRecipe()
    """Supervised fine-tuning."""
    sft_variant: FineTuneRecipe = FineTuneRecipe(epochs=1)
    """A second fine-tuning, so that two model variants answer in the first comparisons."""
    rlhf: RLHFRecipe = RLHFRecipe()
    """Preferences, reward models, rejection sampling, PPO."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    """Examination of every checkpoint."""

    @model_validator(mode="after")
    def _stages_fit_together(self) -> Self:
        model = self.pretrain.model
        if model.vocab_size != self.tokenizer.vocab_size:
            raise ValueError(
                f"pretrain.model.vocab_size is {model.vocab_size}, tokenizer.vocab_size {self.tokenizer.vocab_size}"
            )
        if self.tokens.row_tokens - 1 > model.max_seq_len:
            raise ValueError(
                f"tokens.row_tokens is {self.tokens.row_tokens}: pretrain.model.max_seq_len {model.max_seq_len} "
                f"takes {model.max_seq_len + 1} at most"
            )
        return self
