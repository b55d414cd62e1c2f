"""The mix of sources and the order of its rows, without a list of them."""

import numpy as np
import pytest

from llama2_core.data.mixture import Mixture, Segment, SourceWeight, allot
from llama2_core.data.sampler import permute, step_indices


@pytest.mark.parametrize("total", [1, 2, 3, 20, 1000, 65537])
def test_a_permutation_reaches_every_place_once(total: int) -> None:
    found = permute(np.arange(total), total, seed=7)
    assert sorted(found.tolist()) == list(range(total))


def test_a_place_is_the_same_alone_and_among_others() -> None:
    total = 10**15
    places = np.array([0, 1, 12345, total - 1])
    together = permute(places, total, seed=3)
    assert [int(permute(places[i : i + 1], total, seed=3)[0]) for i in range(4)] == together.tolist()
    assert ((together >= 0) & (together < total)).all()
    assert len(set(together.tolist())) == 4


def test_a_permutation_looks_random() -> None:
    """Of 10,000 places the mean of |found - place| is a third of the total; neighbours part; seeds differ."""
    total = 10_000
    found, other = (permute(np.arange(total), total, seed) for seed in (1, 2))
    assert np.abs(found - np.arange(total)).mean() == pytest.approx(total / 3, rel=0.03)
    assert np.abs(np.diff(found)).mean() == pytest.approx(total / 3, rel=0.03)
    assert abs(np.corrcoef(found, np.arange(total))[0, 1]) < 0.04
    assert (found == other).sum() < 10
    halves = np.histogram(found[: total // 2], bins=10)[0]
    assert np.abs(halves - 500).max() < 100


def test_a_batch_far_away_costs_no_more_than_the_first() -> None:
    """Epoch 10 million of a trillion rows: nothing of what precedes is computed, or this would never end."""
    total = 10**12
    indices = step_indices(total, 8, seed=1, step=10**18 // 8)
    assert len(set(indices.tolist())) == 8


def test_weights_and_budget_by_hand() -> None:
    rows = {"books": 100, "web": 900}
    twice = {"books": SourceWeight(weight=2)}
    assert allot(rows, {}) == rows
    assert allot(rows, twice) == {"books": 200, "web": 900}
    assert allot(rows, twice, budget=550) == {"books": 100, "web": 450}
    assert allot(rows, {}, budget=2000) == {"books": 200, "web": 1800}


def test_what_a_source_may_not_repeat_goes_to_the_others() -> None:
    """Of 2,000 rows books would be 1,000, five passes over 200; at most two leave 1,600 to the web."""
    rows = {"books": 200, "web": 1000}
    weights = {"books": SourceWeight(weight=5, epochs=2)}
    assert allot(rows, weights, budget=2000) == {"books": 400, "web": 1600}
    assert allot(rows, weights) == {"books": 400, "web": 1000}
    assert allot(rows, {}, budget=10**6) == {"books": 800, "web": 4000}  # four passes, and no more
    assert allot({"books": 0, "web": 10}, {}, budget=5) == {"books": 0, "web": 5}


def test_each_pass_draws_each_row_once() -> None:
    mixture = Mixture(
        [
            Segment(source="half", first_row=0, rows=10, draws=5),
            Segment(source="twice and a half", first_row=10, rows=8, draws=20),
            Segment(source="none", first_row=18, rows=3, draws=0),
            Segment(source="once", first_row=21, rows=4, draws=4),
        ],
        seed=1,
    )
    assert len(mixture) == 29
    drawn = mixture.rows(np.arange(29))
    counts = np.bincount(drawn, minlength=25)
    assert counts[:10].sum() == 5 and counts[:10].max() == 1
    assert counts[10:18].sum() == 20 and set(counts[10:18].tolist()) == {2, 3}
    assert counts[18:21].sum() == 0
    assert counts[21:].tolist() == [1, 1, 1, 1]
    assert mixture.rows(np.array([28, 7, 0])).tolist() == drawn[[28, 7, 0]].tolist()
    passes = sorted(drawn[5:13].tolist()), sorted(drawn[13:21].tolist())
    assert passes[0] == passes[1] == list(range(10, 18))
    assert drawn[5:13].tolist() != drawn[13:21].tolist()
