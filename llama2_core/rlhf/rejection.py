"""Rejection sampling: of K samples a prompt, the one with the best reward becomes the target. Llama 2 section 3.2.3."""

from collections.abc import Sequence

import numpy as np


def select_best(rewards: np.ndarray) -> np.ndarray:
    """Return the arg-max sample of every prompt, int [prompts], from rewards [prompts, K]."""
    return rewards.argmax(axis=1)


def reward_curve(rewards: np.ndarray, counts: Sequence[int]) -> list[dict[str, float]]:
    """Return the mean over prompts of the expected maximum and the median of n samples (Llama 2 Figure 7).

    The expected maximum of n of the K samples, drawn without replacement, is exact:
    the i-th smallest (1-based) is the maximum of C(i - 1, n - 1) of the C(K, n) subsets.
    """
    ordered = np.sort(rewards, axis=1)
    samples = rewards.shape[1]
    curve = []
    for n in counts:
        shares = np.zeros(samples)
        shares[n - 1] = 1.0
        for i in range(n, samples):
            shares[i] = shares[i - 1] * i / (i - n + 1)
        shares /= shares.sum()
        median = float(np.median(ordered, axis=1).mean())
        curve.append({"n": float(n), "maximum": float((ordered @ shares).mean()), "median": median})
    return curve
