"""What PPO's metrics mean when they leave their bounds: a sentence each, and whether to stop. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llama2_core.config import NaturalFloat, PositiveFloat, Record, Share

Row = Mapping[str, float]
ROUNDING = 1e-4
"""Nats a response that two ways to the same log-probability may differ by."""
SETTLED = 5
"""Iteration from which the value model is expected to be of use."""


class Bounds(Record):
    """Where a healthy PPO run stays. The defaults are ours: Llama 2 publishes none."""

    sampler_gap: PositiveFloat = 1e-3
    """Nats between sampler and trainer, a sampled token; float32 differs by some 1e-6."""
    surprise: PositiveFloat = 6.0
    """Deviations by which sampled tokens surprise the policy more, or less, than its entropy says."""
    negative_kl: PositiveFloat = 4.0
    """Standard errors that the mean log-ratio to the reference may lie below 0."""
    kl: PositiveFloat = 30.0
    """Nats a response between policy and reference."""
    stray_gradient: NaturalFloat = 1e-6
    """Share of the loss's gradient that falls outside responses."""
    reward_misplaced: NaturalFloat = 1e-3
    """Share of the scores that is not at a response's last token."""
    reward_reread: NaturalFloat = 1e-2
    """Difference between a row's raw score in the batch and read alone."""
    updates_not_applied: NaturalFloat = 0.0
    """Updates of an iteration whose loss or gradient was not finite."""
    goodhart: NaturalFloat = 0.02
    """What the independent reward model may lose on held-out prompts, of 1, while the reward rises."""
    independent_disagreement: Share = 0.5
    """Share of pairs of answers that the independent reward model orders otherwise; by chance 0.5."""
    clip_fraction: Share = 0.3
    """Share of predictions beyond the clipping range."""
    update_kl: PositiveFloat = 0.1
    """Nats a token between the policy before and after an iteration's updates, on average over them."""
    explained_variance: float = -0.5
    """Of the returns, by the value model, from the fifth iteration on."""
    entropy_left: Share = 0.1
    """Of the first iteration's entropy."""
    unended: Share = 0.5
    """Share of responses that were cut off."""
    length_growth: PositiveFloat = 2.0
    """Response length over that of the first iteration."""


@dataclass(frozen=True)
class Rule:
    """A measure, on which side of its bound it is broken, whether that ends a run, and what to say."""

    name: str
    broken: Literal["above", "below"]
    stops: bool
    says: str


RULES = (
    Rule(
        "sampler_gap",
        "above",
        True,
        "Sampler and trainer disagree by {value:.3g} nats a token (bound {bound:g}): the mask marks other tokens than "
        "were sampled, most likely it is off by one, or the sampler has other weights. Build masks with "
        "`assemble`, and sample from the model that is trained.",
    ),
    Rule(
        "surprise",
        "above",
        True,
        "Sampled tokens are {value:.1f} standard deviations from as likely as the policy says (bound {bound:g}): "
        "they are not drawn from the distribution that scores them, most likely by top-p or top-k, or at another "
        "temperature. Sample with top_p 1 and no top_k, at `ppo.temperature`.",
    ),
    Rule(
        "negative_kl",
        "above",
        True,
        "KL is negative because tokens are not drawn from the policy that scores them: the mean log-ratio lies "
        "{value:.1f} standard errors below 0 (bound {bound:g}), which a true KL cannot. Look for top-p, top-k or "
        "another temperature in sampling, or a mask that counts other tokens than the sampled ones.",
    ),
    Rule(
        "kl",
        "above",
        True,
        "KL is {value:.3g} nats a response (bound {bound:g}) because the policy follows the reward further from the "
        "reference than beta holds it. Raise `ppo.kl_coef`, set `ppo.kl_target`, or lower the learning rate.",
    ),
    Rule(
        "stray_gradient",
        "above",
        True,
        "{value:.3g} of the loss's gradient falls outside responses (bound {bound:g}): policy or value loss is "
        "taken on prompt or padding tokens. Multiply both by the rollout's mask.",
    ),
    Rule(
        "reward_misplaced",
        "above",
        True,
        "{value:.3g} of the score is not at its response's last token (bound {bound:g}): the reward is given to the "
        "wrong token, so the credit for it goes astray. Add it at the last place of the mask.",
    ),
    Rule(
        "reward_reread",
        "above",
        True,
        "A response has another raw score in the batch than alone, by {value:.3g} (bound {bound:g}): the reward model "
        "is read at the wrong token, most likely in the padding. Read it at the rollout's `last`.",
    ),
    Rule(
        "updates_not_applied",
        "above",
        True,
        "{value:g} updates of this iteration were not applied (bound {bound:g}) because loss or gradient was not "
        "finite. Lower the learning rate, and look at rewards and returns for infinities.",
    ),
    Rule(
        "goodhart",
        "above",
        True,
        "The reward of held-out prompts rose while an independent reward model fell by {value:.3g} (bound {bound:g}): "
        "the policy exploits its reward models (Goodhart). Collect comparisons from this policy, retrain them, and "
        "raise `ppo.kl_coef`.",
    ),
    Rule(
        "independent_disagreement",
        "above",
        False,
        "The independent reward model orders {value:.0%} of pairs of answers otherwise (bound {bound:.0%}): the reward "
        "models no longer know these answers. Collect comparisons from this policy and retrain them.",
    ),
    Rule(
        "clip_fraction",
        "above",
        False,
        "{value:.0%} of predictions left the clipping range (bound {bound:.0%}): updates are too large, and most is "
        "cut away. Lower the learning rate or use larger mini-batches.",
    ),
    Rule(
        "update_kl",
        "above",
        False,
        "The policy moves {value:.3g} nats a token within an iteration (bound {bound:g}), further than its samples can "
        "tell. Lower the learning rate.",
    ),
    Rule(
        "explained_variance",
        "below",
        False,
        "The value model explains {value:.2f} of the returns' variance (bound {bound:g}), worse than a constant: "
        "advantages are noise. Raise `ppo.value_coef`, or begin it from the helpfulness reward model (`critic`).",
    ),
    Rule(
        "entropy_left",
        "below",
        False,
        "Entropy is down to {value:.0%} of the first iteration's (bound {bound:.0%}): the policy says the same again "
        "and again, and explores nothing. Raise `ppo.entropy_coef` or `ppo.kl_coef`, or stop earlier.",
    ),
    Rule(
        "unended",
        "above",
        False,
        "{value:.0%} of responses were cut off (bound {bound:.0%}), so the reward models judge fragments. Raise "
        "`sampling.max_new_tokens`, or set `ppo.unended_penalty`.",
    ),
    Rule(
        "length_growth",
        "above",
        False,
        "Responses are {value:.1f} times as long as at first (bound {bound:g}): the reward models may be paying for "
        "length. Compare their scores of long and short answers, and raise `ppo.kl_coef`.",
    ),
)


@dataclass(frozen=True)
class Finding:
    """A bound that was broken: where first, by what value, in how many iterations, and what that means."""

    name: str
    iteration: int
    value: float
    bound: float
    stops: bool
    says: str
    iterations: int = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measures(history: Sequence[Row]) -> dict[str, float]:
    """Return what the newest row of metrics is judged by; what it does not tell is left out."""
    newest = history[-1]
    first = {name: value for row in reversed(history) for name, value in row.items()}
    found = {rule.name: newest[rule.name] for rule in RULES if rule.name in newest}
    if "surprise" in newest:
        found["surprise"] = abs(newest["surprise"])
    if "kl_error" in newest:
        found["negative_kl"] = -newest["kl"] / max(newest["kl_error"], ROUNDING)
    if newest["step"] < SETTLED:
        found.pop("explained_variance", None)
    for name, of in (("entropy_left", "entropy"), ("length_growth", "response_tokens")):
        if of in newest:
            found[name] = newest[of] / first[of]
    seen = "held_out_independent"
    if seen in newest and newest["held_out_reward"] > first["held_out_reward"]:
        found["goodhart"] = first[seen] - newest[seen]
    return found


def diagnose(history: Sequence[Row], bounds: Bounds) -> list[Finding]:
    """Return what is wrong with the newest row of metrics; a value that is no number breaks its bound."""
    found = []
    known = measures(history)
    for rule in RULES:
        value, bound = known.get(rule.name), getattr(bounds, rule.name)
        if value is None:
            continue
        sound = value <= bound if rule.broken == "above" else value >= bound
        if not sound:
            says = rule.says.format(value=value, bound=bound)
            found.append(Finding(rule.name, int(history[-1]["step"]), value, bound, rule.stops, says))
    return found


def summarise(history: Sequence[Row], bounds: Bounds) -> list[Finding]:
    """Return what was ever wrong, each once: as it was first, with the number of iterations it was so."""
    found = [finding for end in range(len(history)) for finding in diagnose(history[: end + 1], bounds)]
    first: dict[str, Finding] = {}
    for finding in found:
        first.setdefault(finding.name, finding)
    counts = {name: sum(finding.name == name for finding in found) for name in first}
    return [Finding(**{**finding.as_dict(), "iterations": counts[name]}) for name, finding in first.items()]
