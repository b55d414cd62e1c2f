"""Gwet's AC2 equals published examples, and what can be worked by hand."""

import numpy as np
import pytest

from llama2_core.evaluation.agreement import gwet_ac2, ordinal_weights
from llama2_core.evaluation.statistics import Z95

FOUR_RATERS = """1 1 . 1, 2 2 3 2, 3 3 3 3, 3 3 3 3, 2 2 2 2, 1 2 3 4,
                 4 4 4 4, 1 1 2 1, 2 2 2 2, . 5 5 5, . . 1 1, . . 3 ."""
"""Gwet, Handbook of Inter-Rater Reliability, 4th edition, page 120: twelve subjects, four raters, five categories."""


def counts_of(ratings: str, categories: int) -> np.ndarray:
    rows = [[int(rating) for rating in row.split() if rating != "."] for row in ratings.split(",")]
    return np.array([np.bincount(row, minlength=categories + 1)[1:] for row in rows])


def test_weights_by_hand() -> None:
    third = 2 / 3
    assert ordinal_weights(3) == pytest.approx(np.array([[1, third, 0], [third, 1, third], [0, third, 1]]))
    assert ordinal_weights(8).sum() == pytest.approx(49)


def test_published_examples() -> None:
    """Values and standard errors as irrCAC prints them for Gwet's example."""
    counts = counts_of(FOUR_RATERS, 5)
    ac1, ac2 = gwet_ac2(counts, np.eye(5)), gwet_ac2(counts, ordinal_weights(5))
    assert ac1.value == pytest.approx(0.77544, abs=5e-6)
    assert (ac1.value - ac1.low) / Z95 == pytest.approx(0.14295, abs=5e-6)
    assert ac2.value == pytest.approx(0.899, abs=5e-4)
    assert (ac2.value - ac2.low) / Z95 == pytest.approx(0.107, abs=5e-4)
    assert (ac2.high, ac2.n) == (1, 12)


def test_two_subjects_by_hand() -> None:
    """Observed (1 + 0) / 2; shares 3/4 and 1/4, so chance is 2 x 3/16 = 3/8 of weights 2 / (2 x 1) = 1."""
    assert gwet_ac2(np.array([[2, 0], [1, 1]]), np.eye(2)).value == pytest.approx((1 / 2 - 3 / 8) / (5 / 8))


def test_all_agree_and_nobody_was_asked_twice() -> None:
    assert gwet_ac2(np.array([[3, 0, 0], [0, 0, 2]]), ordinal_weights(3)).value == 1
    assert gwet_ac2(np.array([[1, 0], [0, 1]]), np.eye(2)).n == 0
    assert gwet_ac2(np.zeros((0, 4)), ordinal_weights(4)).n == 0
