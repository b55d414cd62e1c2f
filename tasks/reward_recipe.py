"""What defines reward models, their ablations, and what they must be good for. No prefect, no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from llama2_core.config import (
    LoRAConfig,
    Margin,
    NaturalFloat,
    OptimizerConfig,
    Positive,
    Precision,
    Record,
    RewardConfig,
    Share,
)

Domain = Literal["helpfulness", "safety"]
DOMAINS: tuple[Domain, ...] = ("helpfulness", "safety")
PositiveShare = Annotated[float, Field(gt=0, le=1)]


class RewardRecipe(Record):
    """A reward model. Llama 2 section 3.2.2."""

    domain: Domain = "helpfulness"
    """Which of the two."""
    other_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Comparisons of the other domain in the mix, at most. Llama 2: 0.5 for helpfulness, 0.1 for safety."""
    pairs_share: PositiveShare = 1.0
    """Share of the mix that is learned from, for scaling curves; a smaller one is part of a larger."""
    reward: RewardConfig = RewardConfig()
    """Loss."""
    epochs: Positive = 1
    """Llama 2: 1, more over-fits."""
    rows: Positive = 32
    """Pairs an update. Llama 2: 512."""
    precision: Precision = "float32"
    """Of matrix products and activations."""
    optimizer: OptimizerConfig = OptimizerConfig(peak_learning_rate=5e-4, warmup_steps=5)
    """Llama 2: 1e-5, 5e-6 at 70B; warm-up of 5 updates at least."""
    warmup_share: Share = 0.03
    """Warm-up as a share of the updates, where that is more than `optimizer.warmup_steps`. Llama 2: 3%."""
    lora: LoRAConfig | None = None
    """Train adapters and the score head instead of all weights."""

    @model_validator(mode="after")
    def _adapts_what_there_is(self) -> Self:
        if self.lora and "output" in self.lora.targets:
            raise ValueError("lora.targets: a reward model has no output layer; leave 'output' out")
        return self


class AblationRecipe(Record):
    """Variants of the reward models, each trained and measured beside them. Llama 2 section 3.2.2, Figure 6."""

    margins: tuple[Margin, ...] = ("none", "small", "large")
    """Of the helpfulness model (Llama 2 Table 28)."""
    auxiliary_weights: tuple[NaturalFloat, ...] = (0.0, 1.0)
    """Of the safety model's classification loss (Llama 2 Table 29)."""
    pairs_shares: tuple[PositiveShare, ...] = (0.25, 0.5, 1.0)
    """Of the comparisons, for both models: scaling with data."""
    chats: dict[str, str] = Field(default={})
    """Name -> chat model in the store: scaling with model size, each at all of `pairs_shares`."""

    def variants(
        self, chat: str, helpfulness: RewardRecipe, safety: RewardRecipe
    ) -> dict[str, tuple[str, RewardRecipe]]:
        """Return name -> chat model and recipe; the same ones under two names are trained once."""

        def changed(recipe: RewardRecipe, **reward: object) -> tuple[str, RewardRecipe]:
            loss = recipe.reward.model_copy(update=reward)
            return chat, recipe.model_copy(update={"reward": loss})

        found = {
            f"helpfulness margin {margin}": changed(helpfulness, margin=margin) for margin in self.margins
        }
        for weight in self.auxiliary_weights:
            found[f"safety auxiliary {weight:g}"] = changed(safety, safety_auxiliary_weight=weight)
        for size, start in {"": chat, **self.chats}.items():
            for recipe in (helpfulness, safety):
                for share in self.pairs_shares:
                    part = recipe.model_copy(update={"pairs_share": share})
                    found[f"{recipe.domain} pairs {share:g} {size}".strip()] = (start, part)
        return found


BARS = (
    *(
        f"{domain}_{bar}"
        for domain in ("helpfulness", "safety")
        for bar in ("accuracy", "clear_accuracy", "calibration_error", "length_correlation", "length_bias")
    ),
    "safety_unsafe_recall",
)
"""Everything that a pair of reward models is held to, by the names under which a bar is overridden."""


class FitnessRecipe(Record):
    """What both reward models must reach on held-out comparisons before a policy is optimised against them.

    What must be high is held to the lower end of its 95% interval, so few comparisons prove nothing; what must be low
    is held to its value. DECISIONS.md says where the bars come from.
    """

    least_accuracy: Share = 0.55
    """Of a model on its own domain, all grades; chance is 0.5."""
    least_clear_accuracy: Share = 0.65
    """The same on pairs of which one is significantly better."""
    least_unsafe_recall: Share = 0.5
    """Share of the unsafe answers to safety prompts that the safety model scores below 0.5."""
    most_calibration_error: Share = 0.25
    """Expected calibration error of a model's preferences, in its own domain."""
    most_length_correlation: Share = 0.5
    """Of differences in score with differences in length, either sign (Spearman)."""
    most_length_bias: Share = 0.2
    """That the same correlation differs by from the one of the annotators' grades."""
    overrides: dict[str, str] = Field(default={})
    """Bar -> why a flow may go on below it. Recorded wherever the verdict is."""

    @field_validator("overrides")
    @classmethod
    def _overrides_name_bars_and_reasons(cls, overrides: dict[str, str]) -> dict[str, str]:
        for bar, reason in overrides.items():
            if bar not in BARS:
                raise ValueError(f"there is no bar {bar!r}; the bars are {', '.join(BARS)}")
            if not reason.strip():
                raise ValueError(f"{bar} is overridden without a reason: write one")
        return overrides


class RewardReportRecipe(Record):
    """What the report of the reward models shows, and what it holds them to."""

    bins: Positive = 10
    """Of a calibration curve, equally wide."""
    errors: Positive = 12
    """Worst confident errors shown of each model."""
    safety_threshold: Share = 0.15
    """Below it the safety model rules in rejection sampling and PPO. Llama 2: 0.15, precision .89, recall .55."""
    fitness: FitnessRecipe = FitnessRecipe()
    """Bars."""
