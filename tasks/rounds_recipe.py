"""What defines RLHF in rounds. No prefect, no torch."""

from typing import Literal

from llama2_core.config import Natural, Positive, PositiveFloat, Record, RewardConfig, Share
from tasks.adapt_recipe import ContinueRecipe
from tasks.dpo_recipe import DPORecipe
from tasks.recipes import (
    ComparisonsRecipe,
    EvaluationRecipe,
    FineTuneRecipe,
    PPORecipe,
)
from tasks.reward_recipe import RewardRecipe, RewardReportRecipe
from tasks.sampling_recipe import RejectionRecipe


class SweepRecipe(Record):
    """The search for a sampling temperature, anew each round. Llama 2 section 3.2.3, Figure 8."""

    temperatures: tuple[PositiveFloat, ...] = (0.6, 0.8, 1.0, 1.2, 1.4)
    """Tried. Llama 2 finds 1.2 to 1.3 best for RLHF models."""
    samples: Positive = 8
    """A prompt and temperature: the best one has the highest expected maximum of so many."""
    prompts: Positive = 100
    """Prompts sampled."""


class RoundGateRecipe(Record):
    """When a round's model becomes the champion: neither side by side nor on any suite may it lose much."""

    most_loss: Share = 0.05
    """That any suite's share may lose."""
    least_win_rate: Share = 0.5
    """Over the champion, win + tie / 2."""
    least_sure_win_rate: Share = 0.45
    """The lower 95% bound of the same."""


class RoundRecipe(Record):
    """One round: reward models, rejection sampling, PPO, examination, the gate. Llama 2 section 3.2.3."""

    seed: Natural = 0
    """Root of every random stream."""
    ppo_from: Positive = 5
    """Round from which PPO follows rejection sampling. Llama 2: the fifth."""
    carry_over: Literal["paper", "previous", "all"] = "paper"
    """Whose best samples a round is fine-tuned on: its own, those of all rounds, or all from the fourth round on."""
    reward_models_from: Literal["sft", "newest"] = "sft"
    """What reward models begin from: always the SFT model, or the newest champion. Llama 2: "chat checkpoints"."""
    helpfulness: RewardRecipe = RewardRecipe()
    """Helpfulness reward model."""
    safety: RewardRecipe = RewardRecipe(
        domain="safety", other_share=0.1, reward=RewardConfig(safety_auxiliary_weight=1.0)
    )
    """Safety reward model."""
    reward_report: RewardReportRecipe = RewardReportRecipe()
    """What both reward models must reach before a policy is optimised against them."""
    sweep: SweepRecipe | None = SweepRecipe()
    """Without one, `rejection.temperatures` are taken as they are."""
    rejection: RejectionRecipe = RejectionRecipe()
    """Rejection sampling."""
    rejection_fine_tune: FineTuneRecipe = FineTuneRecipe()
    """Fine-tuning of the base model on the best samples."""
    ppo: PPORecipe = PPORecipe()
    """Proximal policy optimization."""
    dpo: DPORecipe | None = None
    """Beside PPO, from the same model and comparisons: to be compared with, never a champion."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    """Examination of every round's models."""
    gate: RoundGateRecipe = RoundGateRecipe()
    """Which model is gone on from."""

    def carries_all(self, number: int) -> bool:
        """Tell whether a round, from 1, learns from the best samples of the rounds before it too."""
        return number > 1 and (
            self.carry_over == "all" or (self.carry_over == "paper" and number >= CARRY_ALL_FROM)
        )

    def reward_start(self, start: "Start") -> str:
        """Return the model that a round's reward models begin from."""
        return start.newest if self.reward_models_from == "newest" else start.chat


class RoundsRecipe(RoundRecipe):
    """Rounds of comparisons, reward models, rejection sampling and PPO, V1 to V5. Llama 2 section 3.2.3."""

    base: str = "base"
    """The base model: a stage's name or an artifact; every round fine-tunes it anew."""
    chat: str = "sft"
    """The model that the first round begins from; all are measured against it."""
    dialogs: str = "dialogs"
    """Demonstrations and prompts."""
    variant: FineTuneRecipe = FineTuneRecipe(epochs=1)
    """A second fine-tuning, so that two model variants answer in the first comparisons."""
    rounds: Positive = 5
    """Llama 2: 5."""
    comparisons: ComparisonsRecipe = ComparisonsRecipe()
    """A round's; the newest model answers beside the one before. Its name begins the batch's."""
    independent: ComparisonsRecipe | None = None
    """Comparisons of which only the reward model learns that watches PPO (Goodhart's alarm)."""


class RetrainRecipe(RoundRecipe):
    """The champion made anew from what has come since: one round from its own base, judges and batches."""

    least_comparisons: Positive = 100
    """New comparisons, of all batches together, that are worth a round."""
    pretrain: ContinueRecipe | None = ContinueRecipe()
    """How the base model goes on learning from a new corpus; without it, new documents are left alone."""
    approval: bool = False
    """Ask a person before what the gate accepts becomes the champion."""


CARRY_ALL_FROM = 4
"""Llama 2: after V3 had forgotten how to rhyme."""


class Start(Record):
    """What a round begins from, as names of artifacts."""

    number: Positive
    """Of the round, from 1."""
    base: str
    """The pretrained model."""
    chat: str
    """Of supervised fine-tuning."""
    dialogs: str
    """Demonstrations and prompts."""
    newest: str
    """The champion, which is sampled."""
    batches: list[str]
    """Comparisons that its reward models learn from, oldest first."""
    judges: dict[str, str]
    """Reward models of the round before, domain -> model; none before the first."""
    samples: list[str]
    """Rejection samples of earlier rounds."""
    standard: str
    """The evaluation that win rates are over."""
    standing: str
    """The champion's evaluation."""
    watched: str = ""
    """Comparisons of the reward model that only watches PPO."""


class Round(Record):
    """What one round made, as names of artifacts."""

    number: Positive
    """From 1."""
    comparisons: str
    """Its batch."""
    helpfulness: str
    """Reward model."""
    safety: str
    """Reward model."""
    reward_report: str
    """Of both."""
    sweep: str
    """Samples at several temperatures, or nothing."""
    samples: str
    """Of rejection sampling."""
    models: dict[str, str]
    """Stage -> model, in the order in which they were made."""
    evaluations: dict[str, str]
    """The same examined."""
    verdict: str
    """Of the gate."""
    champion: str
    """The model that the next round begins from."""
    standing: str
    """Its evaluation."""

    def next_pair(self, newest: str) -> tuple[str, str]:
        """Return what the next round compares: the champion, and `newest`, the one before it.

        Where that stays champion, the refused model is the other, so that reward models see what is wrong with it.
        """
        return self.champion, newest if self.champion != newest else self.models["rejection"]
