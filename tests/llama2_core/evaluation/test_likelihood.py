"""Likelihoods of completions, against the model's own log-softmax a row at a time."""

import random

import pytest
import torch

from llama2_core.config import ModelConfig, Variant
from llama2_core.evaluation.likelihood import best_choice, completion_logprobs, score_completions
from llama2_core.evaluation.prefixes import groups
from llama2_core.model import Transformer, initialise


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


def _questions(shots: int, questions: int, choices: int) -> list[tuple[list[int], list[int]]]:
    """Draw pairs as of few-shot multiple choice, in no order: what all begin with, a question, a choice."""
    draw = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(3, 300) for _ in range(draw.randint(least, most))]

    beginning = [1, *tokens(shots, shots)]
    pairs = [
        (context, tokens(1, 5))
        for context in ([*beginning, *tokens(1, 9)] for _ in range(questions))
        for _ in range(choices)
    ]
    pairs += [(pairs[0][0], [7]), (pairs[0][0], [7]), (pairs[0][0], [7, 9]), ([1], [5])]
    draw.shuffle(pairs)
    return pairs


@pytest.mark.parametrize(
    "variant", [Variant(), Variant(positions="learned"), Variant(positions="sinusoidal")]
)
@pytest.mark.parametrize(
    ("shots", "row_tokens", "batch_tokens"), [(0, 128, 4096), (40, 24, 100), (40, 8, 40), (40, 1, 1)]
)
def test_what_is_shared_changes_no_likelihood(
    config: ModelConfig, variant: Variant, shots: int, row_tokens: int, batch_tokens: int
) -> None:
    model = Transformer(config.model_copy(update={"variant": variant}))
    initialise(model, model.config, torch.Generator().manual_seed(0))
    pairs = _questions(shots, 12, 4)
    alone = completion_logprobs(model, pairs)
    found = {each.pair: each for each in score_completions(model, pairs, batch_tokens, row_tokens)}
    assert [found[index].logprob for index in range(len(pairs))] == pytest.approx(alone, abs=1e-5)
    with torch.no_grad():
        for index, (context, completion) in enumerate(pairs):
            likeliest = model(torch.tensor([[*context, *completion]]))[0].argmax(-1).tolist()
            expected = likeliest[len(context) - 1 : -1] == completion
            assert found[index].greedy == expected


def test_a_beginning_that_many_rows_share_is_read_once() -> None:
    pairs = _questions(40, 12, 4)
    sequences = [(*context, *completion[:-1]) for context, completion in pairs]
    found = groups(sequences, [len(context) - 1 for context, _ in pairs], row_tokens=24)
    stems = [len(group.stem) for group in found]
    assert sorted(index for group in found for row in group.rows for index in row.sequences) == list(
        range(len(pairs))
    )
    assert max(stems) >= 40
    read = sum(stems) + sum(row.size for group in found for row in group.rows)
    assert read < sum(map(len, sequences)) / 4


def test_a_greedy_completion_is_told(model: Transformer) -> None:
    context = [1, 5, 6]
    with torch.no_grad():
        likeliest = int(model(torch.tensor([context]))[0, -1].argmax())
    pairs = [(context, [likeliest]), (context, [3])]
    scored = {each.pair: each.greedy for each in score_completions(model, pairs)}
    assert scored == {0: True, 1: likeliest == 3}


def test_nothing_is_scored_without_tokens(model: Transformer) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        list(score_completions(model, [([1], [])]))
