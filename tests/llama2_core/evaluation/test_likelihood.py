"""Likelihoods of completions, against the model's own log-softmax a row at a time."""

import pytest
import torch

from llama2_core.evaluation.likelihood import best_choice, completion_logprobs
from llama2_core.model import Transformer


def test_a_completion_is_scored_after_its_context_whatever_stands_beside_it(model: Transformer) -> None:
    pairs = [([1, 5, 6], [7, 8]), ([1], [9]), ([1, 4], [5, 6, 7, 8, 9])]
    with torch.no_grad():
        for (context, completion), found in zip(pairs, completion_logprobs(model, pairs), strict=True):
            logprobs = model(torch.tensor([[*context, *completion]])).log_softmax(-1)[0]
            places = range(len(context) - 1, len(context) + len(completion) - 1)
            expected = sum(float(logprobs[at, t]) for at, t in zip(places, completion, strict=True))
            assert found == pytest.approx(expected, abs=1e-4)


def test_the_best_choice_is_the_likeliest_a_token() -> None:
    assert best_choice([-4.0, -6.0], [1, 3]) == 1
    assert best_choice([-4.0, -6.0], [1, 1]) == 0
