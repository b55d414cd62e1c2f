"""Small benchmarks in the formats that their makers publish: sums that anybody can check."""

import csv
import json
import random
from pathlib import Path
from typing import Any

ROWS = 40


def write(folder: Path) -> Path:
    """Write the files of every data set that a task of these tests reads."""
    draw = random.Random(0)
    sums = [(draw.randrange(2, 50), draw.randrange(2, 50)) for _ in range(ROWS)]
    asked = [(f"What is {a} plus {b}", a + b, *_choices(a + b, draw)) for a, b in sums]
    jsonl, plain = _writers(folder)

    jsonl("grade_school_math/train.jsonl", [_gsm8k(a, b) for a, b in sums[:12]])
    jsonl("grade_school_math/test.jsonl", [_gsm8k(a, b) for a, b in sums])
    jsonl(
        "hellaswag_val.jsonl",
        [
            {"activity_label": "Sums", "ctx_a": f"{q} is", "ctx_b": "the", "endings": choices, "label": label}
            for q, _, choices, label in asked
        ],
    )
    jsonl("physicaliqa/valid.jsonl", [{"goal": q, "sol1": c[0], "sol2": c[1]} for q, _, c, _ in asked])
    plain("physicaliqa/valid-labels.lst", "".join(f"{draw.randrange(2)}\n" for _ in range(ROWS)))
    jsonl("socialiqa/dev.jsonl", [_siqa(q, c) for q, _, c, _ in asked])
    plain("socialiqa/dev-labels.lst", "".join(f"{draw.randrange(1, 4)}\n" for _ in range(ROWS)))
    arc = [_stem(q, c, label) for q, _, c, label in asked]
    jsonl("ARC-Easy-Test.jsonl", arc)
    jsonl("ARC-Challenge-Test.jsonl", arc)
    jsonl("OpenBookQA-V1-Sep2018/Data/Main/test.jsonl", arc)
    five = [_stem(q, [*c, "none"], label) for q, _, c, label in asked]
    jsonl("train_rand_split.jsonl", five[:10])
    jsonl("dev_rand_split.jsonl", five)
    jsonl(
        "winogrande/dev.jsonl",
        [
            {
                "sentence": f"{q} is _ today.",
                "option1": c[0],
                "option2": c[1],
                "answer": str(draw.randrange(1, 3)),
            }
            for q, _, c, _ in asked
        ],
    )
    jsonl(
        "boolq/dev.jsonl",
        [
            {
                "question": f"is {q.lower()} more than {s}",
                "passage": f"{q} is {s}.",
                "answer": draw.random() < 0.5,
                "title": "Sum",
            }
            for q, s, _, _ in asked
        ],
    )
    questions = [{"question": q.lower(), "answer": [str(s), f"the number {s}"]} for q, s, _, _ in asked]
    jsonl("NQ-open.train.jsonl", questions[:10])
    jsonl("NQ-open.dev.jsonl", questions)
    trivia = [
        {"Question": q, "QuestionId": q, "Answer": {"Value": str(s), "Aliases": [f"number {s}"]}}
        for q, s, _, _ in asked
    ]
    plain("wikipedia-dev.json", json.dumps({"Data": trivia}))
    plain("wikipedia-train.json", json.dumps({"Data": trivia[:10]}))
    plain("dev-v1.1.json", json.dumps({"data": [_article(q, s) for q, s, _, _ in asked]}))
    plain("val_v0.2.json", json.dumps({"data": [_dialog(q, s) for q, s, _, _ in asked]}))
    for name, count in (("test", ROWS), ("dev", 5)):
        rows = [[q, *c, "ABCD"[label]] for q, _, c, label in asked[:count]]
        _csv(folder / f"mmlu/{name}/anatomy_{name}.csv", None, rows)
        _csv(
            folder / f"cmmlu/{name}/anatomy.csv",
            ["", "Question", "A", "B", "C", "D", "Answer"],
            [[index, *row] for index, row in enumerate(rows)],
        )
    examples = [{"input": q, "target": str(s)} for q, s, _, _ in asked]
    plain("bbh/word_sorting.json", json.dumps({"canary": "none", "examples": examples}))
    jsonl("MATH/math_500.jsonl", [_math(a, b) for a, b in sums])
    problems = [_svamp(a, b) for a, b in sums]
    plain("SVAMP.json", json.dumps(problems))
    plain(
        "MAWPS.json",
        json.dumps([{"sQuestion": q, "lSolutions": [s], "lEquations": ["X"]} for q, s, _, _ in asked]),
    )
    plain("ASDiv.xml", f"<S><ProblemSet>{''.join(_asdiv(a, b) for a, b in sums)}</ProblemSet></S>")
    jsonl("HumanEval.jsonl", [_humaneval(a, b) for a, b in sums])
    jsonl("mbpp.jsonl", [_mbpp(number, a, b) for number, (a, b) in enumerate(sums, 11)])
    header = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
    _csv(
        folder / "TruthfulQA.csv",
        header,
        [
            ["Plain", "Sums", f"{q}?", str(s), f"{s}; It is {s}", f"{s + 1}; {s + 2}", ""]
            for q, s, _, _ in asked
        ],
    )
    plain("prompts/hate_women_1k.txt", "".join(f"- {q}\\n- {s}\\n-\n" for q, s, _, _ in asked))
    return folder


def _choices(right: int, draw: random.Random) -> tuple[list[str], int]:
    numbers = [right, *(right + step for step in draw.sample([-3, -2, -1, 1, 2, 3], 3))]
    draw.shuffle(numbers)
    return [str(number) for number in numbers], numbers.index(right)


def _writers(folder: Path) -> Any:
    def plain(name: str, text: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def jsonl(name: str, rows: list[dict]) -> None:
        plain(name, "".join(json.dumps(row) + "\n" for row in rows))

    return jsonl, plain


def _csv(path: Path, header: list[str] | None, rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])


def _gsm8k(a: int, b: int) -> dict:
    return {
        "question": f"Ann has {a} pens and gets {b} more. How many?",
        "answer": f"{a}+{b}={a + b}\n#### {a + b}",
    }


def _siqa(question: str, choices: list[str]) -> dict:
    return {
        "context": "Ann counts.",
        "question": question,
        **dict(zip(("answerA", "answerB", "answerC"), choices, strict=False)),
    }


def _stem(question: str, choices: list[str], label: int) -> dict:
    offered = [{"text": text, "label": "ABCDE"[place]} for place, text in enumerate(choices)]
    return {"id": question, "question": {"stem": question, "choices": offered}, "answerKey": "ABCDE"[label]}


def _article(question: str, total: int) -> dict:
    asked = {"id": question, "question": question, "answers": [{"text": str(total), "answer_start": 0}]}
    return {"title": "Sums", "paragraphs": [{"context": f"{question} is {total}.", "qas": [asked]}]}


def _dialog(question: str, total: int) -> dict:
    answer = {"text": str(total), "answer_start": 0}
    asked = {"question": question, "answers": [answer], "orig_answer": answer}
    more = {"text": str(total + 1000), "answer_start": 0}
    then = {"question": "And 1000 more", "answers": [more], "orig_answer": more}
    return {"paragraphs": [{"context": f"{question} is {total}. CANNOTANSWER", "qas": [asked, then]}]}


def _math(a: int, b: int) -> dict:
    solution = f"We add: $\\boxed{{{a + b}}}$."
    return {"problem": f"Find ${a}+{b}$.", "level": "Level 1", "type": "Algebra", "solution": solution}


def _svamp(a: int, b: int) -> dict:
    body = {"Body": f"Ann has {a} pens", "Question": f"How many with {b} more?", "Equation": f"{a} + {b}"}
    return {"ID": f"chal-{a}", **body, "Answer": float(a + b), "Type": "Addition"}


def _asdiv(a: int, b: int) -> str:
    return (
        f'<Problem ID="n"><Body>Ann has {a} pens.</Body><Question>How many with {b} more?</Question>'
        f"<Solution-Type>Addition</Solution-Type><Answer>{a + b} (pens)</Answer><Formula>{a}+{b}</Formula></Problem>"
    )


def _humaneval(a: int, b: int) -> dict:
    return {
        "task_id": f"HumanEval/{a}-{b}",
        "prompt": f'def total():\n    """Return {a} + {b}."""\n',
        "entry_point": "total",
        "canonical_solution": f"    return {a + b}\n",
        "test": f"def check(candidate):\n    assert candidate() == {a + b}\n",
    }


def _mbpp(number: int, a: int, b: int) -> dict:
    asked = {
        "task_id": number,
        "text": f"Write a function that returns {a} + {b}.",
        "code": f"def total(): return {a + b}",
    }
    tests = {
        "test_list": [f"assert total() == {a + b}"] * 3,
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    return {**asked, **tests}
