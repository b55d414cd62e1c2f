"""PPO's diagnostics by hand, and what is said when a bound is broken."""

import math
import re

import pytest
import torch

from llama2_core.rlhf import diagnostics
from llama2_core.rlhf.diagnosis import RULES, Bounds, diagnose, measures, summarise

HALF, QUARTER, EIGHTH = (math.log(1 / n) for n in (2, 4, 8))
LOGPROBS = torch.tensor([[HALF, QUARTER, EIGHTH, EIGHTH]])
UNIFORM = torch.full((1, 4), QUARTER)
LOG2 = math.log(2)


def test_kl_by_hand() -> None:
    """p = 1/2, 1/4, 1/8, 1/8 against a quarter each: 1/2 log 2 + 0 - 1/4 log 2; the other way 1/4 (-1 + 0 + 1 + 1)."""
    assert diagnostics.exact_kl(LOGPROBS, UNIFORM).item() == pytest.approx(LOG2 / 4)
    assert diagnostics.exact_kl(UNIFORM, LOGPROBS).item() == pytest.approx(LOG2 / 4)
    ratio = torch.tensor([2.0, 1.0, 0.5]).log()
    assert diagnostics.k1(ratio).tolist() == pytest.approx([LOG2, 0, -LOG2])
    assert diagnostics.k3(ratio).tolist() == pytest.approx([0.5 - 1 + LOG2, 0, 2 - 1 - LOG2])


def test_estimators_agree_with_the_exact_kl_on_average() -> None:
    """Weighted by p, both are KL."""
    log_ratio, p = (LOGPROBS - UNIFORM)[0], LOGPROBS[0].exp()
    for estimator in (diagnostics.k1, diagnostics.k3):
        assert (p * estimator(log_ratio)).sum().item() == pytest.approx(LOG2 / 4)


def test_entropy_and_surprise_by_hand() -> None:
    """-log2 p is 1, 2, 3, 3: mean 1.75 bits, mean square 3.75, variance 0.6875."""
    entropy, variance = diagnostics.entropy(LOGPROBS), diagnostics.surprise_variance(LOGPROBS)
    assert entropy.item() == pytest.approx(1.75 * LOG2)
    assert variance.item() == pytest.approx(0.6875 * LOG2**2)
    drawn = torch.tensor([HALF] * 400)  # a sampler that always takes the likeliest
    found = diagnostics.surprise(drawn, entropy.expand(400), variance.expand(400))
    expected = -400 * 0.75 * LOG2 / math.sqrt(400 * 0.6875 * LOG2**2 + diagnostics.RARE)
    assert found == pytest.approx(expected) and found < -15
    fair = torch.tensor([HALF] * 200 + [QUARTER] * 100 + [EIGHTH] * 100)
    assert diagnostics.surprise(fair, entropy.expand(400), variance.expand(400)) == pytest.approx(0, abs=1e-4)


def test_clipping_and_explained_variance_by_hand() -> None:
    ratio = torch.tensor([1.3, 1.1, 0.7, 0.9]).log()
    assert diagnostics.clipped(ratio, 0.2).tolist() == [True, False, True, False]
    returns = torch.tensor([0.0, 2.0, 4.0])  # variance 8/3
    assert diagnostics.explained_variance(returns, returns) == 1
    assert diagnostics.explained_variance(torch.ones(3), returns) == pytest.approx(0)
    assert diagnostics.explained_variance(torch.tensor([0.0, 2.0, 2.0]), returns) == pytest.approx(1 - 1 / 3)
    assert diagnostics.explained_variance(returns, torch.ones(3)) == 0


def test_disagreement_by_hand() -> None:
    """Three rows are three pairs; 3 1 2 orders one of them as 1 2 3 does, and a tie is half a pair."""
    one = torch.tensor([1.0, 2.0, 3.0])
    assert diagnostics.disagreement(one, one * 5) == 0
    assert diagnostics.disagreement(one, -one) == 1
    assert diagnostics.disagreement(one, torch.tensor([3.0, 1.0, 2.0])) == pytest.approx(2 / 3)
    assert diagnostics.disagreement(one, torch.tensor([1.0, 1.0, 2.0])) == pytest.approx(0.5 / 3)


def test_scores_and_gradients_astray_by_hand() -> None:
    """Scores 2 and -1 at predictions 2 and 1; then the second, a third of what there is, one place early."""
    penalty, last = torch.tensor([[0.0, 0.5, 0.25], [0.5, 0, 0]]), torch.tensor([3, 2])
    scores = torch.tensor([2.0, -1.0])
    right = torch.tensor([[0.0, 0, 2], [0, -1, 0]]) - penalty
    early = torch.tensor([[0.0, 0, 2], [-1, 0, 0]]) - penalty
    assert diagnostics.misplaced_score(right, penalty, scores, last) == 0
    assert diagnostics.misplaced_score(early, penalty, scores, last) == pytest.approx(2 / 3)
    outputs = [torch.ones(1, 3, requires_grad=True) for _ in range(2)]
    mask = torch.tensor([[False, True, True]])
    stray, size = diagnostics.stray_gradient((3 * outputs[0] * mask).sum() + outputs[1].sum(), outputs, mask)
    assert (stray.item(), size.item()) == (1, 9)


SOUND = {
    "step": 8,
    "kl": 1.0,
    "kl_error": 0.1,
    "surprise": -1.0,
    "entropy": 2.0,
    "response_tokens": 20.0,
    "explained_variance": 0.2,
    "held_out_reward": 0.6,
    "held_out_independent": 0.5,
    **dict.fromkeys(("sampler_gap", "stray_gradient", "reward_misplaced", "reward_reread"), 0.0),
    **dict.fromkeys(("updates_not_applied", "clip_fraction", "update_kl", "unended"), 0.0),
    "independent_disagreement": 0.3,
}
FIRST = {**SOUND, "step": 1, "explained_variance": -9.0}


def test_a_sound_run_has_nothing_said_of_it() -> None:
    assert diagnose([FIRST], Bounds()) == [] == diagnose([FIRST, SOUND], Bounds())
    assert measures([FIRST, SOUND]).keys() == {rule.name for rule in RULES} - {"goodhart"}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("negative_kl", {"kl": -0.5}, "KL is negative because tokens are not drawn from the policy.*5.0 standard"),
        ("kl", {"kl": 31.0}, "KL is 31 nats a response"),
        ("surprise", {"surprise": -7.0}, "7.0 standard deviations"),
        ("entropy_left", {"entropy": 0.1}, "Entropy is down to 5%"),
        ("length_growth", {"response_tokens": 50.0}, "2.5 times as long"),
        ("explained_variance", {"explained_variance": -2.0}, "worse than a constant"),
        ("unended", {"unended": 0.75}, "75% of responses were cut off"),
        ("sampler_gap", {"sampler_gap": float("nan")}, "disagree by nan"),
        ("goodhart", {"held_out_reward": 0.7, "held_out_independent": 0.4}, "fell by 0.1 .*Goodhart"),
        ("independent_disagreement", {"independent_disagreement": 0.6}, "orders 60% of pairs"),
        ("updates_not_applied", {"updates_not_applied": 2.0}, "2 updates"),
    ],
)  # fmt: skip
def test_a_broken_bound_is_said(name: str, change: dict[str, float], words: str) -> None:
    [finding] = diagnose([FIRST, {**SOUND, **change}], Bounds())
    assert finding.name == name and finding.iteration == 8
    assert re.search(words, finding.says)


def test_a_fall_of_both_rewards_is_no_goodhart() -> None:
    assert not diagnose([FIRST, {**SOUND, "held_out_reward": 0.5, "held_out_independent": 0.2}], Bounds())


def test_every_rule_has_its_bound_and_says_what_to_do() -> None:
    assert {rule.name for rule in RULES} == set(Bounds.model_fields)
    for rule in RULES:
        said = rule.says.format(value=0.5, bound=0.25)
        assert said.count(". ") >= 1 or said.count(".") >= 2, said


def test_each_finding_is_summarised_once() -> None:
    broken = {**SOUND, "clip_fraction": 0.5}
    history = [
        FIRST,
        {**broken, "step": 2},
        {**SOUND, "step": 3},
        {**broken, "step": 4, "clip_fraction": 0.9},
    ]
    [finding] = summarise(history, Bounds())
    assert (finding.iteration, finding.value, finding.iterations, finding.stops) == (2, 0.5, 2, False)
