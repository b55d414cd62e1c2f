"""Benchmarks made from the starter data: what no training text of the laptop profile holds."""

import random
from typing import Any

from datasets import Dataset

from llama2_core.seeding import derive_seed
from storage.sources.starter import arithmetic
from storage.sources.starter.dictionary import definitions as all_definitions
from tasks.starter_words import belongs, multiple_choice, short

LARGEST_OPERAND, LARGEST_FACT = 10, 20
"""As in the tokens of the laptop profile."""
QUESTIONS = 200


def problems(**_: Any) -> dict[str, Dataset]:
    """One-step word problems over operand pairs that are held out."""
    random_ = random.Random(derive_seed(0, "starter problems"))
    pairs = arithmetic.operand_pairs(LARGEST_OPERAND, "held_out")
    drawn = [arithmetic.problem(random_, pairs) for _ in range(QUESTIONS)]
    return _test([{"question": each.question, "answer": float(each.answer)} for each in drawn])


def sums(**_: Any) -> dict[str, Dataset]:
    """Held-out sums and differences, each with three results near the right one."""
    random_ = random.Random(derive_seed(0, "starter sums"))
    rows = []
    for a, operation, b in arithmetic.operand_pairs(LARGEST_FACT, "held_out"):
        right = a + b if operation == "+" else a - b
        near = [value for value in range(right - 3, right + 4) if value >= 0 and value != right]
        results = [right, *random_.sample(near, 3)]
        random_.shuffle(results)
        choices = [f"{result}." for result in results]
        rows.append(
            {"question": f"{a} {operation} {b} =", "choices": choices, "answer": results.index(right)}
        )
    return _test(rows)


def definitions(**_: Any) -> dict[str, Dataset]:
    """Held-out words, each with four definitions."""
    words = sorted(
        {word: text for word, _, text in all_definitions() if word.isalpha() and short(text)}.items()
    )
    held_out = [item for index, item in enumerate(words) if belongs(index, held_out=True)]
    asked = multiple_choice(held_out, QUESTIONS)
    return _test([{**each, "question": f"Question: What does {each['word']!r} mean?"} for each in asked])


def _test(rows: list[dict[str, Any]]) -> dict[str, Dataset]:
    return {"test": Dataset.from_list(rows)}
