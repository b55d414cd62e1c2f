"""From the files that makers of benchmarks publish to the rows that task files read."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Shape = Callable[[Sequence[Row], Path], Iterator[Row]]
"""Records of a file, and its path, to rows. Raises KeyError, ValueError or IndexError for what is malformed."""
LETTERS = "ABCDE"


def as_they_are(records: Sequence[Row], path: Path) -> Iterator[Row]:
    yield from records


def triviaqa(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records[0]["Data"]:
        aliases = list(dict.fromkeys([each["Answer"]["Value"], *each["Answer"]["Aliases"]]))
        answer = {"value": each["Answer"]["Value"], "aliases": aliases}
        yield {"question": each["Question"], "question_id": each["QuestionId"], "answer": answer}


def mmlu(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        choices = [each[letter] for letter in "ABCD"]
        yield {
            "question": each["question"],
            "choices": choices,
            "answer": "ABCD".index(each["answer"].strip()),
        }


def math(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        yield {name: each[name] for name in ("problem", "level", "type", "solution")}


def mbpp(records: Sequence[Row], path: Path) -> Iterator[Row]:
    """Keep the tasks that the paper measures, 11 to 510; all of a file that has none of them."""
    measured = [each for each in records if 11 <= each["task_id"] <= 510]
    yield from measured or records


def boolq(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        yield {"question": each["question"], "passage": each["passage"], "label": int(each["answer"])}


def piqa(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each, label in zip(records, _labels(path), strict=True):
        yield {name: each[name] for name in ("goal", "sol1", "sol2")} | {"label": int(label)}


def siqa(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each, label in zip(records, _labels(path), strict=True):
        yield {**each, "label": label}


def _labels(path: Path) -> list[str]:
    return path.with_name(path.name.split(".")[0] + "-labels.lst").read_text().split()


def choices(records: Sequence[Row], path: Path) -> Iterator[Row]:
    """ARC, OpenBookQA and CommonsenseQA: {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}."""
    for each in records:
        asked = each["question"]
        offered = {name: [choice[name] for choice in asked["choices"]] for name in ("text", "label")}
        offered["label"].index(each["answerKey"])
        stem = asked["stem"]
        yield {"question": stem, "question_stem": stem, "choices": offered, "answerKey": each["answerKey"]}


def squad(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for article in records[0]["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                texts = [answer["text"] for answer in asked["answers"]]
                row = {"id": asked["id"], "title": article["title"], "context": paragraph["context"]}
                yield {**row, "question": asked["question"], "answers": {"text": texts}}


def quac(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for article in records[0]["data"]:
        for paragraph in article["paragraphs"]:
            history = ""
            context = paragraph["context"].removesuffix("CANNOTANSWER").strip()
            for asked in paragraph["qas"]:
                texts = [answer["text"] for answer in asked["answers"]]
                row = {
                    "context": context,
                    "history": history,
                    "question": asked["question"],
                    "answers": texts,
                }
                yield row
                history += f"Q: {asked['question']}\nA: {asked['orig_answer']['text']}\n\n"


def bbh(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records[0]["examples"]:
        yield {"input": each["input"], "target": each["target"]}


def agieval(records: Sequence[Row], path: Path) -> Iterator[Row]:
    """Write the question as AGIEval's own code does for zero shots."""
    for each in records:
        question = f"{each.get('passage') or ''}Q: {each['question']}"
        if each["options"]:
            last = LETTERS[len(each["options"]) - 1]
            asked = f"{question} Answer Choices: {' '.join(each['options'])}\nA: Among A through {last}, the answer is"
            yield {"query": asked, "choices": each["options"], "gold": [LETTERS.index(each["label"])]}
        else:
            yield {"query": f"{question}\nA: The answer is", "answer": each["answer"]}


def truthfulqa(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        right, wrong = (_listed(each[f"{kind} Answers"]) for kind in ("Correct", "Incorrect"))
        best = each["Best Answer"].strip()
        yield {
            "type": each["Type"],
            "category": each["Category"],
            "question": each["Question"].strip(),
            "best_answer": best,
            "correct_answers": right,
            "incorrect_answers": wrong,
            "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
            "mc2_targets": {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)},
        }


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def toxigen(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        measured = {name: float(each[name]) for name in ("toxicity_ai", "toxicity_human")}
        yield {"text": each["text"], **measured}


def toxigen_prompts(records: Sequence[Row], path: Path) -> Iterator[Row]:
    kind, _, group = path.name.removesuffix("_1k.txt").partition("_")
    for each in records:
        yield {"prompt": each["text"].replace("\\n", "\n"), "group": group, "kind": kind}


def bold(records: Sequence[Row], path: Path) -> Iterator[Row]:
    domain = path.name.split("_prompt")[0]
    for group, entities in records[0].items():
        for prompts in entities.values():
            for prompt in prompts:
                yield {"domain": domain, "group": group, "prompt": prompt.strip()}


def svamp(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        body = each["Body"].strip()
        joined = body if body.endswith((".", ",", "?")) else f"{body}."
        yield {"question": f"{joined} {each['Question'].strip()}", "answer": float(each["Answer"])}


def mawps(records: Sequence[Row], path: Path) -> Iterator[Row]:
    """The original (sQuestion, lSolutions), folds with numbers taken out, and {"input", "target"}."""
    for each in records:
        if "sQuestion" in each:
            question, answer = each["sQuestion"], each["lSolutions"][0]
        elif "Numbers" in each:
            numbers = [f"{float(number):g}" for number in each["Numbers"].split()]
            parts = re.split(r"number(\d+)", each["Question"])
            question = "".join(numbers[int(part)] if place % 2 else part for place, part in enumerate(parts))
            answer = each["Answer"]
        else:
            question, answer = each["input"], each["target"]
        yield {"question": question.strip(), "answer": float(answer)}


def asdiv(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        yield {
            "body": each["Body"],
            "question": each["Question"],
            "solution_type": each.get("Solution-Type", ""),
            "answer": each["Answer"],
            "formula": each.get("Formula", ""),
        }


def molecules(records: Sequence[Row], path: Path) -> Iterator[Row]:
    for each in records:
        of = each["smiles"]
        yield {"subject": ".".join(of) if isinstance(of, list) else of, **_asked(each)}


def proteins(records: Sequence[Row], path: Path) -> Iterator[Row]:
    sequences = json.loads(path.with_name("sequences.json").read_text(encoding="utf-8"))
    for each in records:
        yield {"subject": "\n".join(sequences[name] for name in each["protein_accession"]), **_asked(each)}


def _asked(each: Row) -> Row:
    return {"question": each["question"], "answer": str(each["answer"])}


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        *(triviaqa, mmlu, math, mbpp, boolq, piqa, siqa, choices, squad, quac, bbh, agieval, truthfulqa),
        *(toxigen, toxigen_prompts, bold, svamp, mawps, asdiv, molecules, proteins, as_they_are),
    )
}
