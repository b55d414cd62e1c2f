"""Sketches against whole sets."""

import numpy as np
import pytest

from storage.sketches import SKETCH, jaccard


@pytest.mark.parametrize(("size", "error"), [(500, 1e-9), (20_000, 4 * 0.0125)])
def test_the_similarity_of_sketches_is_that_of_the_sets(size: int, error: float) -> None:
    """Exact for what a sketch holds whole, else within four standard errors; pairs do not mix."""
    random = np.random.default_rng(0)
    hashes = random.permutation(2**20).astype(np.uint32)
    shared = (size * np.linspace(0, 1, 12)).astype(int)
    draws = [random.permutation(hashes)[: 2 * size] for _ in shared]
    later = [np.sort(drawn[:size])[:SKETCH] for drawn in draws]
    earlier = [np.sort(drawn[size - n :][:size])[:SKETCH] for drawn, n in zip(draws, shared, strict=True)]
    expected = shared / (2 * size - shared)
    assert np.abs(jaccard(later, earlier) - expected).max() < error
