"""The calculator in the loop: calls found, computed in the sandbox, written into the answer, by hand and by a model."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from tasks.calculator import FAILED, Asked, answered, called, computed, until_call
from tasks.sandbox import available

sandboxed = pytest.mark.skipif(bool(available()), reason=available() or "isolated")
ON = {"max_gen_toks": 20, "calculator": True}


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("so CALCULATOR(3 + 4)", "3 + 4"),
        ("CALCULATOR((3 + 4) * 2)", "(3 + 4) * 2"),
        ("CALCULATOR(1) = 1, CALCULATOR(2)", "2"),
        ("CALCULATOR((3 + 4)", None),
        ("CALCULATOR(3) = 3 (all)", None),
        ("CALCULATOR(3) and", None),
        ("(3 + 4)", None),
    ],
)
def test_a_call_is_whole_and_last(text: str, expression: str | None) -> None:
    assert called(text) == expression


@sandboxed
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 + 4", "7"),
        ("1,200 / 4", "300"),
        ("2^10 - 1", "1023"),
        ("10 × 3 ÷ 4", "7.5"),
        ("1 / 3", "0.3333333333"),
        ("2 ** 100", "1.2676506e+30"),
        ("1 / 0", FAILED),
        ("'text'", FAILED),
        ("3 +", FAILED),
        ("open('/etc/passwd').read()", FAILED),
        ("print(5) or 6", FAILED),
    ],
)
def test_expressions_by_hand(expression: str, value: str) -> None:
    assert computed(expression) == value


@sandboxed
def test_results_are_written_in_and_the_model_goes_on() -> None:
    """Words count as tokens. The second has no calculator; the third calls until its 20 tokens are used up."""
    script = {
        "a": [" (I think)", " CALCULATOR(3 + 4)", ", so 7"],
        "b": [" CALCULATOR(3 + 4)"],
        "c": [" CALCULATOR(1 + 1)"] * 9,
    }
    said: list[Asked] = []

    def generate(asked: Sequence[Asked]) -> list[str]:
        said.extend(asked)
        return [script[each.task].pop(0) for each in asked]

    asked = [Asked("a", "A:", ON), Asked("b", "B:", {"max_gen_toks": 20}), Asked("c", "C:", ON)]
    texts = answered(asked, generate, lambda text: len(text.split()))
    assert texts[:2] == [" (I think) CALCULATOR(3 + 4) = 7, so 7", " CALCULATOR(3 + 4)"]
    assert texts[2] == " CALCULATOR(1 + 1) = 2" * 4  # of 5 words each
    of_a = [(each.context, each.settings["max_gen_toks"]) for each in said if each.task == "a"]
    assert of_a == [("A:", 20), ("A: (I think)", 18), ("A: (I think) CALCULATOR(3 + 4) = 7", 13)]
    assert said[1].settings == {"max_gen_toks": 20}


def test_a_bracket_belongs_to_what_it_ends() -> None:
    assert until_call("f(x) and (y)", ("\n\n", ")")) == "f(x)"
    assert until_call("one\n\nf(x)", ("\n\n", ")")) == "one"


@sandboxed
def test_a_model_that_calls_is_given_the_result(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """It learned a wrong sum by heart; the calculator's stands in its place, and a second run asks nothing."""
    pytest.importorskip("lm_eval", reason="lm-eval, the extra `evaluation`, is not installed")
    from lm_eval.api.instance import Instance

    from tasks.harness import Answers, HarnessModel

    tokens = torch.tensor([tokenizer.encode("Answer: CALCULATOR(3 + 4) = 9", bos=True, eos=True)])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        loss = F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ask(calculator: bool) -> tuple[str, int]:
        answers = Answers(tmp_path / "answers.jsonl", tmp_path / "metrics.jsonl")
        settings = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 40, "calculator": calculator}
        asked = Instance("generate_until", {}, ("Answer:", settings), 0, metadata=("sums", 0, 1))
        (said,) = HarnessModel(model.eval(), tokenizer, answers).generate_until([asked])
        return said, len(answers.of) - answers.reused

    assert ask(calculator=False)[0] == "CALCULATOR(3 + 4) = 9"
    said, asked = ask(calculator=True)
    assert said.startswith(" CALCULATOR(3 + 4) = 7") and asked >= 2
    assert ask(calculator=True) == (said, 0)
