"""Planted copies are found, as many as by brute force; subsets and Z by hand and by the paper's table."""

import numpy as np
import pytest

from llama2_core.evaluation.contamination import (
    EXACT_TOKENS,
    SKIP_BUDGET,
    SampleIndex,
    Subset,
    helped,
    scan_all,
    subsets,
)


def brute_force(samples: list[list[int]], training: list[int]) -> list[list[int]]:
    """Return for each token of each sample the longest match that it lies in, by the definition."""
    found = []
    for sample in samples:
        cover = [0] * len(sample)
        for i in range(len(sample)):
            for t in range(len(training)):
                if (
                    sample[i : i + EXACT_TOKENS] != training[t : t + EXACT_TOKENS]
                    or len(sample) - i < EXACT_TOKENS
                ):
                    continue
                skips, length = 0, 0
                for step, (a, b) in enumerate(zip(sample[i:], training[t:], strict=False)):
                    skips += a != b
                    if skips > SKIP_BUDGET:
                        break
                    length = step + 1 if a == b else length
                if length > EXACT_TOKENS:
                    for place in range(i, i + length):
                        cover[place] = max(cover[place], length)
        found.append(cover)
    return found


def covered(samples: list[list[int]], training: list[int], piece: int = 1000) -> list[list[int]]:
    index = SampleIndex(samples)
    tokens = np.array(training, dtype=np.int32)
    total = scan_all(index, (tokens[start : start + piece] for start in range(0, len(tokens), piece)))
    assert total == len(training)
    cover = index.covered().tolist()
    return [cover[a:b] for a, b in zip(index.bounds, index.bounds[1:], strict=False)]


@pytest.mark.parametrize("piece", [7, 50, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_by_brute_force(seed: int, piece: int) -> None:
    draw = np.random.default_rng(seed)
    samples = [draw.integers(0, 3, draw.integers(1, 90)).tolist() for _ in range(12)]
    training: list[int] = []
    for sample in samples[:8]:  # copies: whole, cut, with changes, in two parts
        copy = np.array(sample)
        copy[draw.integers(0, len(copy), draw.integers(0, 6))] = 3
        training += draw.integers(0, 3, 20).tolist() + copy.tolist()
        training += [*copy[: len(copy) // 2].tolist(), 9, 9, 9, *copy[len(copy) // 2 :].tolist()]
    assert covered(samples, training, piece) == brute_force(samples, training)


def test_what_may_differ_and_what_not() -> None:
    sample = list(range(40))
    copy = sample.copy()
    copy[10], copy[20], copy[30], copy[38] = 99, 99, 99, 99
    assert covered([sample], [5, *copy, 7]) == [[40] * 40]
    copy[25] = 99  # a fifth: the match ends before the last
    assert covered([sample], [5, *copy, 7]) == [[38] * 38 + [0] * 2]
    copy = [*sample[:9], 99, *sample[10:19], 99, *sample[20:29], 99, *sample[30:]]  # never ten in a row
    assert covered([sample], copy) == [[0] * 30 + [0] * 10]
    assert covered([sample], sample[:10]) == [[0] * 40]  # longer than ten
    assert covered([sample], sample[:11]) == [[11] * 11 + [0] * 29]


def test_shares_by_shortest_match() -> None:
    index = SampleIndex([list(range(50)), list(range(100, 120))])
    scan_all(index, [np.array([*range(25), 7, 7, *range(100, 112)], dtype=np.int32)])
    assert index.shares(10) == pytest.approx([0.5, 0.6])
    assert index.shares(20) == pytest.approx([0.5, 0.0])
    assert index.shares(30) == pytest.approx([0.0, 0.0])


def test_subsets_are_the_papers() -> None:
    """HellaSwag at 70B, L = 40 (Table 51): 7,391 clean samples of 80.0, 2,651 others of 89.5."""
    right = [round(0.8 * 7391), round(0.895 * 2651)]
    scores = np.concatenate([np.arange(n) < k for n, k in zip((7391, 2651), right, strict=True)]).astype(
        float
    )
    shares = np.concatenate([np.zeros(7391), np.full(2651, 0.5)])
    clean, not_clean, not_dirty, dirty = subsets(shares, scores)
    assert (clean.n, not_clean.n, not_dirty.n, dirty.n) == (7391, 2651, 10042, 0)
    assert clean.z == pytest.approx(-5.73, abs=0.1)
    assert not_clean.z == pytest.approx(9.56, abs=0.1)
    assert not helped([clean, not_clean, not_dirty, dirty])
    assert helped([Subset("clean", 1, 0.0, 0, -3), Subset("not clean", 1, 0.0, 0, 3),
                   Subset("not dirty", 1, 0.0, 0, -2.1),
                   Subset("dirty", 1, 0.0, 0, 5)])  # fmt: skip
