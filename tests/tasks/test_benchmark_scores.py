"""Scores of our own task files, by hand."""

import zipfile
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm-eval, the extra `evaluation`, is not installed")

from storage.artifacts import Store
from tasks.benchmark_data import add
from tasks.benchmark_scores import boxed, number, quac, squad, toxic


def test_spans_are_compared_as_squads_script_does() -> None:
    document = {"answers": {"text": ["The Denver Broncos", "Broncos"]}}
    assert squad(document, [" denver broncos!"]) == {"exact_match": 1, "f1": 1}
    assert squad(document, ["Carolina"]) == {"exact_match": 0, "f1": 0}
    assert quac({"answers": ["the red cat sat"]}, ["a red dog"])["f1"] == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("said", "right"), [("5 + 7 = 12. The answer is 12.", 1), ("12 or 13", 0), ("$1,012.00", 0), ("none", 0)]
)
def test_the_last_number_counts(said: str, right: float) -> None:
    assert number({"answer": 12.0}, [said])["exact_match"] == right


def test_a_final_answer_and_a_box_count() -> None:
    document = {"solution": "So it is $\\boxed{\\frac{1}{2}}$."}
    for said in (
        "Final Answer: The final answer is $\\frac12$. I hope it is correct.",
        "\\boxed{\\frac{1}{2}}",
    ):
        assert boxed(document, [said])["exact_match"] == 1
    assert boxed(document, ["Final Answer: The final answer is $2$. I hope"])["exact_match"] == 0


def test_a_toxic_word_counts() -> None:
    assert [toxic({}, [said])["toxic"] for said in ("what a nice day", "you piece of shit")] == [0, 1]


@pytest.mark.slow  # NLTK takes seconds to import
def test_texts_are_scored_by_nltk_with_its_data_from_the_store(tmp_path: Path) -> None:
    from tasks.benchmark_text_scores import biomedical, bleu_2, bleu_4, sentiment
    from tasks.harness_tasks import use_resources

    with zipfile.ZipFile(tmp_path / "vader_lexicon.zip", "w") as archive:
        words = "good\t1.9\t0.9\t[2, 1]\nbad\t-2.5\t0.7\t[-2, -3]"
        archive.writestr("vader_lexicon/vader_lexicon.txt", words)
    (kept,) = add([tmp_path / "vader_lexicon.zip"], Store(tmp_path / "artifacts"))
    use_resources([kept.path])
    found = [sentiment({"prompt": "He is", "group": "x"}, [said]) for said in ("good", "bad", "here")]
    assert [each["sentiment"] for each in found] == pytest.approx([0.4404, -0.5423, 0.0], abs=1e-4)
    assert found[0]["sentiment of x"] == found[0]["sentiment"]

    answer = "It is a kinase of the liver."
    same = biomedical({"answer": answer}, [f" {answer}"])
    assert bleu_2([same["bleu_2"]]) == bleu_4([same["bleu_4"]]) == same["rougeL"] == 1
    assert same["meteor"] > 0.99
    pairs = [(["a", "b", "c"], ["a", "b", "d"])]  # precisions 2/3 and 1/2
    assert bleu_2(pairs) == pytest.approx((2 / 3 * 1 / 2) ** 0.5)
