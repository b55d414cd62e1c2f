"""A calculator in the loop: the model writes a call, the sandbox computes it, the model goes on from its result.

Llama 2 section 5.1 and Table 15.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

from llama2_core.completion import until_stop
from tasks.sandbox import run

SETTING = "calculator"
"""In a task's `generation_kwargs`: its answers may call."""
CALL, END = "CALCULATOR(", ")"
SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "^": "**", "$": None})
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")
FAILED = "error"


class Asked(NamedTuple):
    """A request for a text: its task, what it goes on from, lm-eval's settings of generation."""

    task: str
    context: str
    settings: dict[str, Any]


Generate = Callable[[Sequence[Asked]], list[str]]


def answered(asked: Sequence[Asked], generate: Generate, length: Callable[[str], int]) -> list[str]:
    """Return an answer to each request. Where the calculator is on, `generate` must stop after every closing bracket.

    Results count as tokens of the answer (`length` of its text), of which there are `max_gen_toks`.
    Raises SandboxMissing.
    """
    texts = [""] * len(asked)
    going = list(range(len(asked)))
    while going:
        parts = generate([_further(asked[i], texts[i], length) for i in going])
        for i, part in zip(going, parts, strict=True):
            texts[i] += part
        going = [
            i
            for i, part in zip(going, parts, strict=True)
            if asked[i].settings.get(SETTING) and part.endswith(END)
        ]
        for i in going:
            if (expression := called(texts[i])) is not None:
                texts[i] += f" = {computed(expression)}"
        going = [i for i in going if length(texts[i]) < asked[i].settings["max_gen_toks"]]
    return texts


def _further(asked: Asked, text: str, length: Callable[[str], int]) -> Asked:
    if not text:
        return asked
    left = asked.settings["max_gen_toks"] - length(text)
    return asked._replace(context=asked.context + text, settings={**asked.settings, "max_gen_toks": left})


def called(text: str) -> str | None:
    """Return the expression of the call that a text ends in, None where it ends in no whole call."""
    _, name, rest = text.rpartition(CALL)
    inside = rest.removesuffix(END)
    depths = [0, *accumulate({"(": 1, ")": -1}.get(letter, 0) for letter in inside)]
    return inside if name and rest.endswith(END) and depths[-1] == 0 == min(depths) else None


@cache
def computed(expression: str) -> str:
    """Return an expression's value to ten digits, "error" where it has none. Raises SandboxMissing."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", expression).translate(SIGNS)
    verdict = run(f"print(format(({plain}), '.10g'))")
    found = verdict.output.strip()
    return found if verdict.outcome == "passed" and NUMBER.fullmatch(found) else FAILED


def until_call(text: str, stops: Sequence[str]) -> str:
    """Return what comes before the first of the stop texts; a closing bracket belongs to it."""
    kept = until_stop(text, stops)
    return kept + END if text[len(kept) :].startswith(END) else kept
