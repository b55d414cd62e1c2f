"""Agreement of annotators beyond chance: Gwet's AC2, as Llama 2 reports it (sections 3.4.2 and 4.4)."""

import math

import numpy as np

from llama2_core.evaluation.statistics import Z95, Estimate


def ordinal_weights(categories: int) -> np.ndarray:
    """Return how nearly two of q ordered categories agree, 1 to 0: 1 - C(|k - l| + 1, 2) / C(q, 2)."""
    apart = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories)))
    return 1 - (apart + 1) * apart / (categories * (categories - 1))


def gwet_ac2(counts: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return Gwet's AC2 with a normal 95% interval; all zero when no subject was rated twice.

    `counts` [N subjects, Q categories] says how many annotators gave a subject each rating. Those rated once tell
    how common the categories are. With weights of 1 and 0 it is AC1. Gwet, Handbook of Inter-Rater Reliability.
    """
    counts = counts[counts.sum(axis=1) > 0].astype(float)
    raters = counts.sum(axis=1)
    n, categories, twice = len(counts), counts.shape[1], raters > 1
    if not twice.any():
        return Estimate(0.0, 0.0, 0.0, 0)
    agreeing = (counts * (counts @ weights - 1)).sum(axis=1)
    observed = np.where(twice, agreeing / np.maximum(raters * (raters - 1), 1), 0.0)
    shares = (counts / raters[:, None]).mean(axis=0)
    scale = weights.sum() / (categories * (categories - 1))
    by_chance = scale * (shares * (1 - shares)).sum()
    if by_chance == 1:
        return Estimate(1.0, 1.0, 1.0, n)
    value = (observed[twice].mean() - by_chance) / (1 - by_chance)
    each = n / twice.sum() * (observed - by_chance * twice) / (1 - by_chance)
    each_by_chance = scale * (counts @ (1 - shares)) / raters
    each -= 2 * (1 - value) * (each_by_chance - by_chance) / (1 - by_chance)
    half = Z95 * math.sqrt(((each - value) ** 2).sum() / (n * max(1, n - 1)))
    return Estimate(float(value), float(max(-1, value - half)), float(min(1, value + half)), n)
