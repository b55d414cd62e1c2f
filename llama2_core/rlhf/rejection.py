"""Rejection sampling: of K samples a prompt, the one with the best reward becomes the target. Llama 2 section 3.2.3."""

from collections.abc import Sequence
from math import comb

import numpy as np

Curve = list[dict[str, float]]


def select_best(prompts: Sequence[str], rewards: Sequence[float]) -> list[bool]:
    """Tell which samples become lessons: of all samples of a prompt the one with the best reward, the first of equals.

    A prompt is its text. So a prompt that was drawn twice, or in an earlier round too, gives one lesson, an answer
    that was sampled twice counts as one, and no pair of prompt and answer is learned twice.
    """
    best: dict[str, int] = {}
    for place, (prompt, reward) in enumerate(zip(prompts, rewards, strict=True)):
        if prompt not in best or reward > rewards[best[prompt]]:
            best[prompt] = place
    chosen = set(best.values())
    return [place in chosen for place in range(len(prompts))]


def reward_curve(rewards: np.ndarray, counts: Sequence[int]) -> Curve:
    """Return the mean over prompts of the expected maximum and median of n samples (Llama 2 Figure 7).

    Rewards are [prompts, K]. Both are exact, over all ways to draw n of the K samples without replacement.
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


def temperature_curve(rewards: np.ndarray, temperatures: Sequence[float]) -> Curve:
    """Return the reward curve at each temperature, at the same few n for all (Llama 2 Figure 8).

    Rewards are [prompts, K], temperatures those of the K samples. The largest n is what the temperature with the
    fewest samples has; the others are a half, a quarter and an eighth of it.
    """
    columns = {
        t: [k for k, other in enumerate(temperatures) if other == t] for t in sorted(set(temperatures))
    }
    most = min(map(len, columns.values()))
    counts = sorted({most >> halvings for halvings in range(4)} - {0})
    return [
        {"temperature": temperature, **row}
        for temperature, drawn in columns.items()
        for row in reward_curve(rewards[:, drawn], counts)
    ]


def best_temperature(curve: Curve) -> float:
    """Return the temperature at which the best of the largest n is best, the lowest of equals."""
    most = max(row["n"] for row in curve)
    return max((row for row in curve if row["n"] == most), key=lambda row: row["maximum"])["temperature"]


def rank_shares(samples: int, n: int, rank: int) -> np.ndarray:
    """Return how often each of the ordered samples is the rank-th smallest (from 1) of n of them, [samples].

    The i-th smallest is so in C(i - 1, rank - 1) C(samples - i, n - rank) of the C(samples, n) subsets.
    """
    ways = [comb(i, rank - 1) * comb(samples - 1 - i, n - rank) for i in range(samples)]
    return np.array(ways) / comb(samples, n)
