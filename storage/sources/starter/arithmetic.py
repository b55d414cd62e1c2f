"""Generated arithmetic: bare facts for pretraining, one-step word problems for every stage.

Train and held-out sets share no operand pair: no train text, fact or problem, holds a held-out (a, operation, b).
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Operation = Literal["+", "-"]
Split = Literal["train", "held_out"]

NAMES = (
    "Ann",
    "Ben",
    "Cara",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ivy",
    "Jack",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
)
THINGS = (
    "apples",
    "books",
    "cards",
    "coins",
    "cups",
    "eggs",
    "hats",
    "keys",
    "pens",
    "shells",
    "stones",
    "toys",
)

ADDITIONS = (
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "{name} finds {a} {things} and then {b} more {things}. How many {things} did {name} find?",
    "There are {a} {things} in a box. {name} adds {b} {things}. How many {things} are in the box?",
    "{name} has {a} {things}. {other} has {b} {things}. How many {things} do they have together?",
)
SUBTRACTIONS = (
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "{name} had {a} {things} but lost {b} of them. How many {things} does {name} have now?",
    "There are {a} {things} in a box. {name} takes out {b} {things}. How many {things} are in the box?",
    "{name} has {a} {things}. {other} has {b} fewer. How many {things} does {other} have?",
)


@dataclass(frozen=True)
class Problem:
    """A one-step word problem."""

    question: str
    a: int
    operation: Operation
    b: int

    @property
    def answer(self) -> int:
        return self.a + self.b if self.operation == "+" else self.a - self.b

    @property
    def working(self) -> str:
        return f"{self.a} {self.operation} {self.b} = {self.answer}."

    @property
    def solution(self) -> str:
        return f"{self.working} The answer is {self.answer}."


def is_held_out(a: int, operation: Operation, b: int) -> bool:
    """Tell whether this operand pair is kept for tests: about one in six, chosen by hash, the same in every run."""
    return hashlib.sha256(f"{a}{operation}{b}".encode()).digest()[0] < 43


def operand_pairs(largest: int, split: Split) -> list[tuple[int, Operation, int]]:
    """Return every (a, operation, b) of a split with operands from 1 to `largest` and no negative result."""
    numbers = range(1, largest + 1)
    pairs: list[tuple[int, Operation, int]] = [(a, "+", b) for a in numbers for b in numbers]
    differences: list[tuple[int, Operation, int]] = [(a, "-", b) for a in numbers for b in numbers if a >= b]
    return [pair for pair in pairs + differences if is_held_out(*pair) == (split == "held_out")]


def problem(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> Problem:
    """Draw a word problem over one of the operand pairs."""
    a, operation, b = random_.choice(pairs)
    template = random_.choice(ADDITIONS if operation == "+" else SUBTRACTIONS)
    name, other = random_.sample(NAMES, 2)
    question = template.format(name=name, other=other, a=a, b=b, things=random_.choice(THINGS))
    return Problem(question, a, operation, b)


def fact(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> str:
    """Draw a bare fact, "3 + 4 = 7."."""
    a, operation, b = random_.choice(pairs)
    return state(a, operation, b)


def state(a: int, operation: Operation, b: int) -> str:
    return f"{a} {operation} {b} = {a + b if operation == '+' else a - b}."


def run_of_facts(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> str:
    """Draw neighbouring facts, "3 + 1 = 4. 3 + 2 = 5.", leaving out those that are not among the pairs.

    With countings they teach the number line; else a small model learns the pairs by heart and fails on new ones.
    """
    allowed = set(pairs)
    a, operation, b = random_.choice(pairs)
    steps = ((1, 0), (0, 1), (1, -1), (1, 1)) if operation == "+" else ((1, 0), (0, 1), (1, 1))
    step_a, step_b = random_.choice(steps)
    run = []
    for _ in range(random_.randrange(4, 9)):
        if (a, operation, b) in allowed:
            run.append(state(a, operation, b))
        a, b = a + step_a, b + step_b
    return " ".join(run)


def fact_family(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> str:
    """Draw two numbers' sums and differences, "3 + 4 = 7. 7 - 3 = 4.", leaving out those held out for tests."""
    a, operation, b = random_.choice(pairs)
    a, b = (a, b) if operation == "+" else (a - b, b)
    family: list[tuple[int, Operation, int]] = [(a, "+", b), (b, "+", a), (a + b, "-", a), (a + b, "-", b)]
    random_.shuffle(family)
    return " ".join(state(*member) for member in family if not is_held_out(*member))


def counting(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> str:
    """Draw a fact counted out, "3 + 4: 3 4 5 6 7. 3 + 4 = 7."."""
    a, operation, b = random_.choice(pairs)
    steps = range(a, a + b + 1) if operation == "+" else range(a, a - b - 1, -1)
    return f"{a} {operation} {b}: {' '.join(map(str, steps))}. {state(a, operation, b)}"


def fact_document(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> str:
    """Draw a document of facts: runs, countings, families and single ones."""
    draws = {
        run_of_facts: 0.3,
        counting: 0.25,
        lambda *of: " ".join(fact_family(*of) for _ in range(2)): 0.2,
        lambda *of: " ".join(fact(*of) for _ in range(5)): 0.25,
    }
    parts = random_.choices(list(draws), list(draws.values()), k=4)
    return " ".join(draw(random_, pairs) for draw in parts)


def problem_document(random_: random.Random, pairs: list[tuple[int, Operation, int]]) -> str:
    """Draw a document of four word problems with their solutions."""
    problems = [problem(random_, pairs) for _ in range(4)]
    return "\n\n".join(f"Question: {p.question}\nAnswer: {p.solution}" for p in problems)
