"""Data order as a pure function of (seed, step): resuming needs nothing but the step, and no list of rows."""

import numpy as np

from llama2_core.errors import DataError
from llama2_core.seeding import derive_seed

FEISTEL_ROUNDS = 6


def permute(places: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Return where a seeded permutation of `total` sends each place, int64; no other place is computed.

    A Feistel network permutes the next power of four; what falls outside `total` goes through it again.
    """
    half = np.uint64(max(1, ((total - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.default_rng(seed).integers(1 << 63, size=FEISTEL_ROUNDS, dtype=np.uint64)
    found = np.asarray(places, dtype=np.uint64).copy()
    outside = np.ones(len(found), dtype=bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        found[outside] = (left << half) | right
        outside = found >= total
    return found.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def step_indices(total: int, rows: int, seed: int, step: int) -> np.ndarray:
    """Return which `rows` of `total` make up the batch of a step; every epoch is a new shuffle.

    Batches run on across epochs, so no row is dropped or seen twice within one.
    """
    if total < 1:
        raise DataError("there is no row to sample from")
    epochs, places = np.divmod(np.arange(step * rows, (step + 1) * rows), total)
    shuffled = [
        permute(places[epochs == e], total, derive_seed(seed, "epoch", int(e))) for e in np.unique(epochs)
    ]
    return np.concatenate(shuffled)


def bucketed_indices(
    lengths: np.ndarray, rows: int, seed: int, step: int, steps: int, window: int = 8
) -> np.ndarray:
    """Return the batch of a step as `step_indices` would, with rows of like length together.

    The rows of `window` neighbouring steps are sorted by length, cut into batches, and the batches shuffled: less
    padding, the same rows in every window. `steps` is the length of the run, whose last window may be shorter.
    """
    first = step - step % window
    count = min(window, steps - first)
    pool = np.concatenate([step_indices(len(lengths), rows, seed, first + index) for index in range(count)])
    batches = pool[np.argsort(lengths[pool], kind="stable")].reshape(count, rows)
    order = np.random.default_rng(derive_seed(seed, "bucket", first)).permutation(count)
    return batches[order[step - first]]


def rank_share(indices: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return this rank's part of a global batch."""
    return indices[rank::world_size]
