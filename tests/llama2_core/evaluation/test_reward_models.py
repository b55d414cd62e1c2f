"""Every formula of the reward models' report by hand, and scipy as the oracle of correlations."""

import math

import numpy as np
import pytest

from llama2_core.evaluation.reward_models import (
    accuracy,
    calibration,
    calibration_error,
    difference,
    disagreement,
    drift,
    length_correlation,
    mean,
    rank_correlation,
    ranks,
    sigmoid,
    unsafe_precision,
    unsafe_recall,
    worst_errors,
)
from llama2_core.evaluation.statistics import Estimate


def test_equal_scores_are_wrong() -> None:
    found = accuracy([0.5, -0.5, 0.0, 2.0])
    assert (found.value, found.n) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx((0.150, 0.850), abs=1e-3)  # Wilson's
    assert accuracy([]).n == 0


def test_sigmoid_by_hand_and_of_large_numbers() -> None:
    assert sigmoid([0.0, math.log(3), 1000.0, -1000.0]).tolist() == pytest.approx([0.5, 0.75, 1.0, 0.0])


def test_recall_and_precision_of_a_threshold_by_hand() -> None:
    """After the sigmoid: 0.1 and 0.1 and 0.4 unsafe, 0.1 and 0.9 safe."""
    scores = np.log([1 / 9, 1 / 9, 2 / 3, 1 / 9, 9.0])
    safe = [False, False, False, True, True]
    at_half, at_threshold = unsafe_recall(scores, safe, 0.5), unsafe_recall(scores, safe, 0.15)
    assert (at_half.value, at_half.n) == (1.0, 3)
    assert at_threshold.value == pytest.approx(2 / 3)
    assert (unsafe_precision(scores, safe, 0.15).value, unsafe_precision(scores, safe, 0.15).n) == (2 / 3, 3)
    assert unsafe_precision(scores, safe, 0.5).value == 0.75
    assert unsafe_precision([5.0], [False], 0.15).n == 0, "nothing is flagged"


def test_calibration_by_hand() -> None:
    """Two bins: 0.1 and 0.3 of which one happens, 0.5 and 0.9 and 1 of which all do."""
    predicted, happened = [0.1, 0.3, 0.5, 0.9, 1.0], [False, True, True, True, True]
    low, high = calibration(predicted, happened, 2)
    assert (low.low, low.high, low.predicted, low.observed.value) == (0.0, 0.5, pytest.approx(0.2), 0.5)
    assert (high.low, high.high, high.predicted, high.observed.n) == (0.5, 1.0, pytest.approx(0.8), 3)
    error = calibration_error(predicted, happened, 2)
    assert error.value == pytest.approx((2 * 0.3 + 3 * 0.2) / 5)
    assert error.low < error.value < error.high and error.n == 5


def test_a_curve_may_start_at_a_half() -> None:
    bins = calibration([0.5, 0.6, 0.75, 1.0], [True] * 4, 5, start=0.5)
    assert [(b.low, b.observed.n) for b in bins] == [(0.5, 1), (0.6, 1), (0.7, 1), (0.9, 1)]


def test_a_model_that_says_how_sure_it_is_has_no_calibration_error() -> None:
    assert calibration_error([0.75] * 4, [True, True, True, False], 10).value == 0.0
    assert calibration_error([1.0] * 4, [False] * 4, 10).value == 1.0


def test_rank_correlation_equals_scipys() -> None:
    from scipy.stats import rankdata, spearmanr

    random = np.random.default_rng(0)
    a = random.integers(0, 20, 200).astype(float)
    b = a + random.normal(scale=10, size=200)
    assert ranks(a).tolist() == rankdata(a).tolist()
    found = rank_correlation(a, b)
    assert found.value == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert found.low < found.value < found.high


def test_rank_correlation_by_hand() -> None:
    """Ranks 1 2 3 4 and 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8."""
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]).value == pytest.approx(0.8)
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).value == 0.0
    assert rank_correlation([1, 2], [1, 2]).low == -1.0


def test_a_difference_is_as_wide_as_both_by_hand() -> None:
    """0.5 (0.2 to 0.7) - 0.1 (-0.3 to 0.6): below sqrt(0.3^2 + 0.5^2), above sqrt(0.2^2 + 0.4^2)."""
    apart = difference(Estimate(0.5, 0.2, 0.7, 9), Estimate(0.1, -0.3, 0.6, 8))
    assert (apart.value, apart.n) == (pytest.approx(0.4), 8)
    assert (apart.low, apart.high) == (pytest.approx(0.4 - 0.34**0.5), pytest.approx(0.4 + 0.2**0.5))


def test_length_is_liked_whichever_answer_comes_first() -> None:
    margins, longer = np.array([1.0, 2, 3, 4, -1]), np.array([1.0, 2, 3, 4, -1])
    flipped = np.array([1, -1, 1, -1, 1])
    liked = length_correlation(margins, longer)
    assert (liked.value, liked.n) == (pytest.approx(1.0), 5)
    assert length_correlation(margins * flipped, longer * flipped).value == pytest.approx(liked.value)
    assert length_correlation(margins, -longer).value == pytest.approx(-1.0)
    assert length_correlation([1.0, 1, 1, 1], [1.0, -1, 1, -1]).value == pytest.approx(0.0)


def test_disagreement_by_hand() -> None:
    found = disagreement([1.0, -1.0, 2.0, -2.0], [0.1, 0.1, -0.1, -0.1])
    assert (found.value, found.n) == (0.5, 4)


def test_mean_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, half an interval 1.96 / sqrt(3)."""
    found = mean([1.0, 2.0, 3.0])
    assert (found.value, found.high - found.value) == (2.0, pytest.approx(1.959964 / math.sqrt(3)))


def test_drift_is_in_deviations_of_the_earlier_scores() -> None:
    assert drift([3.0, 5.0], [0.0, 2.0]).value == 3.0  # 3 higher; the deviation was 1
    assert drift([1.0, 1.0], [0.0, 0.0]).value == 1.0  # that had none


def test_worst_errors_are_the_surest() -> None:
    assert worst_errors([1.0, -3.0, -0.5, -7.0, 0.0], 5) == [3, 1, 2]
    assert worst_errors([1.0, -3.0, -0.5, -7.0, 0.0], 1) == [3]
