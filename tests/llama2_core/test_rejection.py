"""Rejection sampling in numbers: what is kept, and what more samples or another temperature are worth."""

from itertools import combinations

import numpy as np
import pytest

from llama2_core.rlhf.rejection import best_temperature, reward_curve, select_best, temperature_curve


def test_of_each_prompt_the_best_is_kept_and_of_equals_the_first() -> None:
    assert select_best(["a", "a", "a", "b", "b"], [0.1, 0.9, 0.9, 0.7, 0.2]) == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_prompt_met_again_gives_one_lesson() -> None:
    """Under another id or from another round: the prompt is its text."""
    assert select_best(["a", "a", "b", "a"], [0.4, 0.5, 0.1, 0.6]) == [False, False, True, True]
    assert select_best([], []) == []


def test_expected_maximum_by_hand() -> None:
    """Of {1, 2, 6}: two drawn have maxima 2, 6, 6 and medians 1.5, 3.5, 4; one is its own maximum and median."""
    curve = reward_curve(np.array([[6.0, 1.0, 2.0]]), [1, 2, 3])
    assert [row["maximum"] for row in curve] == pytest.approx([3, 14 / 3, 6])
    assert [row["median"] for row in curve] == pytest.approx([3, 3, 2])


def test_the_reward_curve_equals_drawing_every_subset() -> None:
    rewards = np.random.default_rng(0).normal(size=(5, 6))
    for row in reward_curve(rewards, range(1, 7)):
        subsets = [rewards[:, list(some)] for some in combinations(range(6), int(row["n"]))]
        assert row["maximum"] == pytest.approx(np.mean([s.max(axis=1).mean() for s in subsets]))
        assert row["median"] == pytest.approx(np.mean([np.median(s, axis=1).mean() for s in subsets]))


def test_each_temperature_is_measured_at_the_same_counts() -> None:
    """At 0.5 two samples a prompt, at 1.5 three: the largest N is two for both."""
    rewards = np.array([[6.0, 1.0, 2.0, 5.0, 0.0], [3.0, 3.0, 3.0, 3.0, 9.0]])
    curve = temperature_curve(rewards, [1.5, 0.5, 1.5, 0.5, 1.5])
    assert [(row["temperature"], row["n"]) for row in curve] == [(0.5, 1), (0.5, 2), (1.5, 1), (1.5, 2)]
    maxima = {(row["temperature"], row["n"]): row["maximum"] for row in curve}
    assert maxima[0.5, 1] == pytest.approx((3 + 3) / 2)
    assert maxima[0.5, 2] == pytest.approx((5 + 3) / 2)
    assert maxima[1.5, 1] == pytest.approx((8 / 3 + 5) / 2)
    assert maxima[1.5, 2] == pytest.approx(((6 + 6 + 2) / 3 + (3 + 9 + 9) / 3) / 2)
    assert best_temperature(curve) == 1.5


def test_the_best_temperature_is_that_of_the_best_maximum_not_of_the_best_mean() -> None:
    """A wider spread is worth more to the best of many, whatever its mean: why Llama 2 samples at 1.2 and more."""
    narrow, wide = np.full((4, 8), 0.5), np.tile([0.0, 0.8], (4, 4))
    curve = temperature_curve(np.hstack([narrow, wide]), [0.4] * 8 + [1.2] * 8)
    assert {row["n"] for row in curve} == {1, 2, 4, 8}
    single = {row["temperature"]: row["maximum"] for row in curve if row["n"] == 1}
    assert single[0.4] > single[1.2]
    assert best_temperature(curve) == 1.2
    assert best_temperature(temperature_curve(narrow, [0.7] * 4 + [0.3] * 4)) == 0.3
