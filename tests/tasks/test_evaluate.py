"""The gate keeps the better of the two, by hand."""

import pytest

from tasks.evaluate import better
from tasks.recipes import GateRecipe


@pytest.mark.parametrize(
    ("value", "low", "kept"),
    [
        (0.60, 0.55, "ppo"),
        (0.51, 0.46, "ppo"),
        (0.51, 0.44, "rejection"),
        (0.49, 0.46, "rejection"),
        (0.50, 0.50, "rejection"),
    ],
)
def test_ppo_must_be_preferred_and_surely_not_far_worse(value: float, low: float, kept: str) -> None:
    assert better({"value": value, "low": low}, GateRecipe()) == kept
