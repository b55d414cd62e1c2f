"""Self-BLEU, by hand and against NLTK."""

import math
import random

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llama2_core.evaluation.diversity import WORD, self_bleu


def test_by_hand() -> None:
    """`a b c d` and `a b c e`: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples match, and no four (epsilon 0.1 of 1)."""
    assert self_bleu(["a b c d", "a b c e"]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)
    assert self_bleu(["a b c d"] * 3) == self_bleu(["7"] * 3) == 1
    assert self_bleu(["a b c d", "e f g h"]) == 0


def test_a_shorter_text_pays_for_its_brevity() -> None:
    """`a b c d` in `a b c d e f`: all match, exp(1 - 6/4); the other way 4/6, 3/5, 2/4, 1/3, and no penalty."""
    longer = (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert self_bleu(["a b c d", "a b c d e f"]) == pytest.approx((math.exp(1 - 6 / 4) + longer) / 2)


def test_words_marks_and_chinese_characters() -> None:
    assert WORD.findall("It's 猫在 here.") == ["It", "'", "s", "猫", "在", "here", "."]


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_nltk(seed: int) -> None:
    draws = random.Random(seed)
    texts = [" ".join(draws.choices("abcde", k=draws.randint(1, 15))) for _ in range(6)]
    words, smooth = [text.split() for text in texts], SmoothingFunction().method1
    each = [
        sentence_bleu(
            words[:n] + words[n + 1 :],
            said,
            weights=[1 / min(4, len(said))] * min(4, len(said)),
            smoothing_function=smooth,
        )
        for n, said in enumerate(words)
    ]
    assert self_bleu(texts) == pytest.approx(sum(map(float, each)) / 6)


@pytest.mark.parametrize(("texts", "message"), [(["a"], "1 text"), (["a", " "], "blank")])
def test_what_cannot_be_compared_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        self_bleu(texts)
