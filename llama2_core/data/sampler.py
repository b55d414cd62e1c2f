"""Data order as a pure function of (seed, step): resuming needs nothing but the step."""

from functools import lru_cache

import numpy as np

from llama2_core.errors import DataError
from llama2_core.seeding import derive_seed


@lru_cache(maxsize=2)
def _permutation(total: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(total)


def step_indices(total: int, rows: int, seed: int, step: int) -> np.ndarray:
    """Return which `rows` of `total` make up the batch of a step; every epoch is a new shuffle.

    Batches run on across epochs, so no row is dropped or seen twice within one.
    """
    if total < 1:
        raise DataError("there is no row to sample from")
    places = np.arange(step * rows, (step + 1) * rows)
    epochs, offsets = np.divmod(places, total)
    return np.array([_permutation(total, seed, int(e))[o] for e, o in zip(epochs, offsets, strict=True)])


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
