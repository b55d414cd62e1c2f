"""Intervals and win rates by hand: every score of the project carries one."""

import numpy as np
import pytest

from llama2_core.evaluation.statistics import bootstrap, proportion, win_rate


def test_wilsons_interval_by_hand() -> None:
    """8 of 10, from the table of Wilson's score intervals: 0.4902 to 0.9433."""
    found = proportion(8, 10)
    assert (found.value, found.n) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_interval_stays_within_0_and_1() -> None:
    assert proportion(0, 20).low == 0
    assert proportion(20, 20).high == 1
    assert proportion(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert proportion(0, 0).as_dict() == {"value": 0, "low": 0, "high": 0, "n": 0}


def test_win_rate_by_hand() -> None:
    """Win, loss, tie, win: 2.5 of 4, standard deviation of 1, 0, 0.5, 1 by n - 1 is 0.4787."""
    found = win_rate([3, 1, 2, 5], [2, 2, 2, 4])
    assert (found["wins"], found["ties"], found["losses"]) == (0.5, 0.25, 0.25)
    assert found["value"] == 0.625
    assert found["value"] - found["low"] == pytest.approx(1.959964 * 0.4787 / 2, abs=1e-4)
    assert found["high"] == 1.0
    assert found["n"] == 4


def test_only_ties_leave_no_doubt() -> None:
    found = win_rate([1, 1, 1], [1, 1, 1])
    assert (found["low"], found["value"], found["high"]) == (0.5, 0.5, 0.5)


def test_the_bootstrap_interval_by_hand() -> None:
    """Of 0 or 1, each 50 times, the mean of 100 deviates by 0.05: 95% lie within 1.96 of these, on a grid of 0.01."""
    found = bootstrap([0.0, 1.0] * 50)
    assert (found.value, found.n) == (0.5, 100)
    assert (found.low, found.high) == pytest.approx((0.402, 0.598), abs=0.015)


def test_the_bootstrap_of_a_median_ignores_an_outlier() -> None:
    found = bootstrap([1.0, 2.0, 3.0, 4.0, 1000.0], np.median)
    assert (found.value, found.low) == (3.0, 1.0)
    assert bootstrap([2.0, 2.0]).as_dict() == {"value": 2, "low": 2, "high": 2, "n": 2}
    assert bootstrap([]).n == 0
