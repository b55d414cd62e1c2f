"""Which of the starter data's texts are held out, which suit a small model, and questions about its words."""

import random
from typing import Any

from llama2_core.seeding import derive_seed

LONGEST_WORDS = 14
HELD_OUT_EVERY = 6
Item = dict[str, Any]


def belongs(index: int, held_out: bool) -> bool:
    return (index % HELD_OUT_EVERY == 0) == held_out


def short(text: str) -> bool:
    """Tell whether a text is short and plain enough for a small model's context."""
    return 1 <= len(text.split()) <= LONGEST_WORDS and len(text) <= 90 and "[" not in text and "<" not in text


def multiple_choice(words: list[tuple[str, str]], count: int) -> list[Item]:
    """Return questions of a word and four definitions, one of them its own."""
    random_ = random.Random(derive_seed(0, "multiple choice"))
    questions = []
    for word, meaning in random_.sample(words, min(count, len(words))):
        others = random_.sample([text for _, text in words if text != meaning], 3)
        choices = [meaning, *others]
        random_.shuffle(choices)
        questions.append({"word": word, "choices": choices, "answer": choices.index(meaning)})
    return questions
