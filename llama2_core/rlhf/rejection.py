"""Rejection sampling: of K samples a prompt, the one with the best reward becomes the target. Llama 2 section 3.2.3."""

from collections.abc import Sequence
from math import comb

import numpy as np


def select_best(rewards: np.ndarray) -> np.ndarray:
    """Return the arg-max sample of every prompt, int [prompts], from rewards [prompts, K]."""
    return rewards.argmax(axis=1)


def reward_curve(rewards: np.ndarray, counts: Sequence[int]) -> list[dict[str, float]]:
    """Return the mean over prompts of the expected maximum and median of n samples (Llama 2 Figure 7).

    Both are exact, over all ways to draw n of the K samples without replacement.
    """
    ordered = np.sort(rewards, axis=1).mean(axis=0)
    samples = rewards.shape[1]

    def expected(rank: int, n: int) -> float:
        return float(ordered @ rank_shares(samples, n, rank))

    return [
        {
            "n": float(n),
            "maximum": expected(n, n),
            "median": (expected((n + 1) // 2, n) + expected(n // 2 + 1, n)) / 2,
        }
        for n in counts
    ]


def rank_shares(samples: int, n: int, rank: int) -> np.ndarray:
    """Return how often each of the ordered samples is the rank-th smallest (from 1) of n of them, [samples].

    The i-th smallest is so in C(i - 1, rank - 1) C(samples - i, n - rank) of the C(samples, n) subsets.
    """
    ways = [comb(i, rank - 1) * comb(samples - 1 - i, n - rank) for i in range(samples)]
    return np.array(ways) / comb(samples, n)
