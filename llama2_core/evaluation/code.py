"""HumanEval and MBPP: from completions to programs, and from verdicts to pass@k. Llama 2 sections 2.3 and A.2.2."""

import math
from collections.abc import Sequence

from llama2_core.errors import DataError
from llama2_core.evaluation.statistics import Estimate, mean

TOP_P = 0.95
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What ends the body of a function. Chen et al. 2021, section 2.1."""
MBPP_STOPS = ("[DONE]",)
"""What ends an answer in the format of Austin et al. 2021, appendix A."""


def temperature(k: int) -> float:
    """Return the temperature of samples for pass@k: 0.1 for pass@1, 0.8 for more. Llama 2 section A.2.2."""
    return 0.1 if k == 1 else 0.8


def until_stop(completion: str, stops: Sequence[str]) -> str:
    """Return a completion up to the first of the stop words in it."""
    return completion[: min((at for stop in stops if (at := completion.find(stop)) >= 0), default=None)]


def humaneval_program(prompt: str, completion: str, test: str, entry_point: str) -> str:
    """Return the program that ends without an exception if the completed function is right. Chen et al. 2021."""
    return f"{prompt}{until_stop(completion, HUMANEVAL_STOPS)}\n{test}\ncheck({entry_point})\n"


def mbpp_program(completion: str, tests: Sequence[str], setup: str = "") -> str:
    """Return the program that ends without an exception if the answer passes its asserts. Austin et al. 2021.

    The set-up stands after the answer, whose classes it may make use of (task 927).
    """
    return "\n".join([until_stop(completion, MBPP_STOPS), setup, *tests, ""])


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of k samples passes: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, eq. 1. Raises DataError where fewer than k samples were drawn, or more passed than were drawn.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise DataError(f"pass@{k} of {passed} among {samples} samples: draw at least k samples")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def score(problems: Sequence[Sequence[bool]], k: int) -> Estimate:
    """Return pass@k over problems, each given as which of its samples passed; the interval is over problems."""
    return mean([pass_at_k(len(passed), sum(passed), k) for passed in problems])
