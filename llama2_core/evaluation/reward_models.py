"""What tells a good reward model from a bad one: pure functions of scores, each with its number and 95% interval.

Shapes: N pairs or answers. A pair's margin is score of the chosen answer minus that of the rejected one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llama2_core.evaluation.statistics import Z95, Estimate, proportion

Values = Sequence[float] | np.ndarray
Flags = Sequence[bool] | np.ndarray
RESAMPLES = 1000


def accuracy(margins: Values) -> Estimate:
    """Return how often the chosen answer scores higher; equal scores are wrong."""
    margins = np.asarray(margins, dtype=float)
    return proportion(int((margins > 0).sum()), len(margins))


def sigmoid(scores: Values) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), of large numbers too."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(scores, dtype=float)))


def unsafe_recall(scores: Values, safe: Flags, threshold: float) -> Estimate:
    """Return which share of the unsafe answers is scored below the threshold, after the sigmoid."""
    flagged, unsafe = sigmoid(scores) < threshold, ~np.asarray(safe, dtype=bool)
    return proportion(int((flagged & unsafe).sum()), int(unsafe.sum()))


def unsafe_precision(scores: Values, safe: Flags, threshold: float) -> Estimate:
    """Return which share of what is scored below the threshold is unsafe."""
    flagged, unsafe = sigmoid(scores) < threshold, ~np.asarray(safe, dtype=bool)
    return proportion(int((flagged & unsafe).sum()), int(flagged.sum()))


@dataclass(frozen=True)
class Bin:
    """Predictions in [low, high), the last bin with its end: their mean, and how often they came true."""

    low: float
    high: float
    predicted: float
    observed: Estimate


def calibration(predicted: Values, happened: Flags, bins: int, start: float = 0.0) -> list[Bin]:
    """Return equally wide bins from `start` to 1, those that hold anything."""
    predicted, happened = np.asarray(predicted, dtype=float), np.asarray(happened, dtype=bool)
    edges = np.linspace(start, 1.0, bins + 1)
    of = _places(predicted, bins, start)
    return [
        Bin(
            float(edges[place]),
            float(edges[place + 1]),
            float(predicted[of == place].mean()),
            proportion(int(happened[of == place].sum()), int((of == place).sum())),
        )
        for place in np.unique(of)
    ]


def _places(predicted: np.ndarray, bins: int, start: float) -> np.ndarray:
    """Return each prediction's bin; 1e-9 keeps an edge in the bin that it opens."""
    return np.minimum(((predicted - start) / (1 - start) * bins + 1e-9).astype(int), bins - 1)


def calibration_error(predicted: Values, happened: Flags, bins: int, start: float = 0.0) -> Estimate:
    """Return the expected calibration error: the mean over predictions of |observed - predicted| of their bin.

    The interval is that of a bootstrap from a fixed seed, whose mean, which is higher, is moved to the value. In small
    samples perfect models have errors too.
    """
    predicted, happened = np.asarray(predicted, dtype=float), np.asarray(happened, dtype=float)
    n = len(predicted)
    if n == 0:
        return Estimate(0.0, 0.0, 0.0, 0)
    places, gaps = _places(predicted, bins, start), happened - predicted

    def error(rows: np.ndarray) -> float:
        return float(np.abs(np.bincount(places[rows], gaps[rows], bins)).sum()) / n

    draws = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    value, drawn = error(np.arange(n)), np.array([error(rows) for rows in draws])
    low, high = np.quantile(drawn - drawn.mean() + value, (0.025, 0.975))
    return Estimate(value, max(0.0, float(low)), min(1.0, float(high)), n)


def rank_correlation(a: Values, b: Values) -> Estimate:
    """Return Spearman's rho, ties at their mean rank; 0 where either never varies.

    The interval is Fisher's, with the error of Bonett and Wright (2000).
    """
    first, second = ranks(np.asarray(a, dtype=float)), ranks(np.asarray(b, dtype=float))
    varies = len(first) > 1 and first.std() > 0 and second.std() > 0
    return _correlation(float(np.corrcoef(first, second)[0, 1]) if varies else 0.0, len(first))


def _correlation(rho: float, n: int) -> Estimate:
    if n < 4:
        return Estimate(rho, -1.0, 1.0, n)
    z, half = math.atanh(max(-0.999999, min(0.999999, rho))), Z95 * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return Estimate(rho, math.tanh(z - half), math.tanh(z + half), n)


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, equal values at the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def length_correlation(margins: Values, longer: Values) -> Estimate:
    """Return the rank correlation of differences in score with differences in length, chosen minus rejected.

    Each pair is seen from both sides, so that it does not matter which answer comes first; it counts once.
    """
    margins, longer = np.asarray(margins, dtype=float), np.asarray(longer, dtype=float)
    both = rank_correlation(np.concatenate([margins, -margins]), np.concatenate([longer, -longer]))
    return _correlation(both.value, len(margins))


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Return one minus other, with the interval of independent estimates: too wide where both are of the same pairs."""
    value, n = one.value - other.value, min(one.n, other.n)
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - below, value + above, n)


def disagreement(margins: Values, others: Values) -> Estimate:
    """Return how often two models prefer different answers of a pair."""
    a, b = np.asarray(margins, dtype=float) > 0, np.asarray(others, dtype=float) > 0
    return proportion(int((a != b).sum()), len(a))


def mean(values: Values) -> Estimate:
    """Return the mean with its normal interval."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return Estimate(float(values.sum()), -math.inf, math.inf, n)
    value, half = float(values.mean()), Z95 * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, value - half, value + half, n)


def drift(scores: Values, earlier: Values) -> Estimate:
    """Return how much higher a model scores the same answers than an earlier one did, in its deviations.

    That is the mean difference of raw scores by the earlier scores' standard deviation.
    """
    before = np.asarray(earlier, dtype=float)
    spread = float(before.std()) if len(before) else 0.0
    return mean((np.asarray(scores, dtype=float) - before) / (spread or 1.0))


def worst_errors(margins: Values, count: int) -> list[int]:
    """Return the places of the pairs that are most surely ranked wrong, the surest first."""
    margins = np.asarray(margins, dtype=float)
    order = np.argsort(margins, kind="stable")
    return [int(place) for place in order[:count] if margins[place] < 0]
