"""Intervals for what was counted, and win rates. Every score of the project carries one of these."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval and the number of observations."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def proportion(successes: int, n: int) -> Estimate:
    """Return successes / n with Wilson's score interval; all zero when n is 0."""
    if n == 0:
        return Estimate(0.0, 0.0, 0.0, 0)
    share, square = successes / n, Z95 * Z95
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of values from 0 to 1 with its normal 95% interval; all zero when there are none."""
    n = len(values)
    if n == 0:
        return Estimate(0.0, 0.0, 0.0, 0)
    centre = sum(values) / n
    half = Z95 * math.sqrt(sum((x - centre) ** 2 for x in values) / max(1, n - 1) / n)
    return Estimate(centre, max(0.0, centre - half), min(1.0, centre + half), n)


def win_rate(scores: Sequence[float], other_scores: Sequence[float]) -> dict[str, float]:
    """Return wins, ties, losses and win + tie / 2 with its normal 95% interval, over paired scores."""
    outcomes = [
        1.0 if mine > theirs else 0.0 if mine < theirs else 0.5
        for mine, theirs in zip(scores, other_scores, strict=True)
    ]
    shares = {"wins": 1.0, "ties": 0.5, "losses": 0.0}
    counted = {name: outcomes.count(worth) / len(outcomes) for name, worth in shares.items()}
    return {**mean(outcomes).as_dict(), **counted}


def bootstrap(
    values: Sequence[float] | np.ndarray, statistic: Callable[..., np.ndarray] = np.mean
) -> Estimate:
    """Return a statistic, such as np.median, with the 95% percentile interval of 1,000 resamples from a fixed seed.

    All zero when there are no values. `statistic` takes `axis`.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n == 0:
        return Estimate(0.0, 0.0, 0.0, 0)
    drawn = statistic(values[np.random.default_rng(0).integers(n, size=(RESAMPLES, n))], axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(statistic(values, axis=0)), float(low), float(high), n)
