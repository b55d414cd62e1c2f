"""pass@k by hand, and programs made of completions."""

from itertools import combinations
from math import comb, isclose

import pytest

from llama2_core.errors import DataError
from llama2_core.evaluation.code import (
    HUMANEVAL_STOPS,
    humaneval_program,
    mbpp_program,
    pass_at_k,
    score,
    temperature,
    until_stop,
)


def test_pass_at_k_by_hand() -> None:
    """Of 4 samples 2 pass: of the 6 pairs 1 holds none that passes."""
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(5, 1, 3) == pytest.approx(1 - 4 / 10)
    assert (pass_at_k(5, 0, 5), pass_at_k(5, 1, 5), pass_at_k(5, 3, 3)) == (0, 1, 1)


def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass() -> None:
    for passed in range(8):
        draws = list(combinations([True] * passed + [False] * (7 - passed), 3))
        assert isclose(pass_at_k(7, passed, 3), sum(map(any, draws)) / len(draws), abs_tol=1e-12)


def test_pass_at_100_of_200_is_the_product_of_the_paper() -> None:
    """Chen et al.'s numerically stable form: 1 - product of 1 - k / i over i from n - c + 1 to n."""
    product = 1.0
    for i in range(200 - 7 + 1, 201):
        product *= 1 - 100 / i
    assert pass_at_k(200, 7, 100) == pytest.approx(1 - product, abs=1e-12)
    assert comb(200, 100) > 1e58


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 1, 6), (5, 6, 1), (5, 1, 0), (5, -1, 1)])
def test_what_cannot_be_estimated_is_refused(samples: int, passed: int, k: int) -> None:
    with pytest.raises(DataError, match="draw at least"):
        pass_at_k(samples, passed, k)


def test_the_score_is_the_mean_over_problems() -> None:
    """0.5 and 1, a standard deviation of 0.3536: 0.75 plus or minus 1.96 x 0.25, at most 1."""
    found = score([[True, False], [True, True]], 1)
    assert (found.value, found.high, found.n) == (0.75, 1.0, 2)
    assert found.low == pytest.approx(0.75 - 1.959964 * 0.25)
    assert score([[True, False], [False, False]], 2).value == 0.5
    assert score([], 1).n == 0


def test_the_papers_temperatures() -> None:
    assert [temperature(k) for k in (1, 80, 100)] == [0.1, 0.8, 0.8]


def test_a_completion_ends_at_its_first_stop_word() -> None:
    body = "    if x:\n        return 1\n    return 2\n"
    assert until_stop(f"{body}\nprint(f(1))\ndef g(): pass", HUMANEVAL_STOPS) == body
    assert until_stop(body, HUMANEVAL_STOPS) == body
    assert until_stop("\ndef f(): pass", HUMANEVAL_STOPS) == ""


def test_programs_hold_answer_and_checks() -> None:
    passing = humaneval_program(
        "def f(x):\n", "    return x + 1\ndef f(x): return 0", "def check(f):\n    assert f(1) == 2", "f"
    )
    exec(passing, {})
    with pytest.raises(AssertionError):
        exec(passing.replace("x + 1", "x"), {})
    exec(mbpp_program("def f(x):\r\n    return x[DONE] and more", ["assert f(y) == 3"], "y = 3"), {})
    with pytest.raises(AssertionError):
        exec(mbpp_program("def f(x): return 0", ["assert f(1) == 1"]), {})
