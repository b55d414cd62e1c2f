"""From the test data in ../shared/data, parts of public benchmarks in one common shape, to their makers' formats."""

import ast
import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write(data: Path, folder: Path) -> Path:
    """Write official files for all that `data` holds."""
    for source, name, shape in CHOICES:
        rows = list(_jsonl(data / "choice" / source))
        _write(folder / name, [shape(row) for row in rows])
        if name.startswith(("physicaliqa", "socialiqa")):
            first = 1 if name.startswith("socialiqa") else 0
            labels = folder / name.replace(".jsonl", "-labels.lst")
            labels.write_text("".join(f"{row['label'] + first}\n" for row in rows))
    rows = list(_jsonl(data / "gsm8k" / "train.jsonl"))  # the test split is not there: the last rows stand in
    _write(folder / "gsm8k/train.jsonl", rows[:-1319])
    _write(folder / "gsm8k/test.jsonl", rows[-1319:])
    rows = list(_jsonl(data / "nq_open" / "NQ-open.dev.jsonl"))
    _write(folder / "NQ-open.train.jsonl", rows[:100])
    _write(folder / "NQ-open.dev.jsonl", rows[100:])
    rows = list(_jsonl(data / "commonsenseqa" / "dev_rand_split.jsonl"))
    _write(folder / "train_rand_split.jsonl", rows[:100])
    _write(folder / "dev_rand_split.jsonl", rows[100:])
    _copy(data / "math" / "math_500.jsonl", folder / "MATH/math_500.jsonl")
    _copy(data / "truthfulqa" / "TruthfulQA.csv", folder / "TruthfulQA.csv")
    _copy(data / "svamp" / "SVAMP.json", folder / "SVAMP.json")
    _copy(data / "mawps" / "mawps_dsc_test.json", folder / "mawps_dsc_test.json")
    _copy(data / "squad" / "squad_dev_10_articles.json.gz", folder / "dev-v1.1.json.gz")
    for path in (data / "bbh").glob("*.json"):
        _copy(path, folder / "bbh" / path.name)
    for path in (data / "toxigen").glob("*.txt"):
        _copy(path, folder / "prompts" / path.name)
    for path in (data / "bold").glob("*.json"):
        _copy(path, folder / "bold" / path.name)
    for path in (data / "cmmlu").glob("*.csv"):
        _split(path, folder / "cmmlu", 5)
    for path in sorted((data / "mmlu_redux").glob("*.csv")):
        _mmlu(path, folder / "mmlu")
    return folder


def _boolq(row: Row) -> Row:
    return {"question": row["question"], "passage": "", "answer": row["label"], "title": ""}


def _hellaswag(row: Row) -> Row:
    activity, _, context = row["ctx"].partition(": ")
    before, _, last = context.rpartition(". ")
    parts = {"ctx_a": f"{before}." if before else context, "ctx_b": last if before else ""}
    return {"activity_label": activity, **parts, "endings": row["endings"], "label": row["label"]}


def _piqa(row: Row) -> Row:
    return {"goal": row["question"], "sol1": row["choices"][0], "sol2": row["choices"][1]}


def _siqa(row: Row) -> Row:
    context, dot, question = row["question"].rpartition(". ")
    answers = dict(zip(("answerA", "answerB", "answerC"), row["choices"], strict=True))
    return {"context": context + dot.strip(), "question": question, **answers}


def _stem(row: Row) -> Row:
    offered = [{"text": text, "label": "ABCDE"[place]} for place, text in enumerate(row["choices"])]
    asked = {"stem": row["question"], "choices": offered}
    return {"id": row["question"], "question": asked, "answerKey": "ABCDE"[row["label"]]}


def _winogrande(row: Row) -> Row:
    first, second = row["choices"]
    return {"sentence": row["question"], "option1": first, "option2": second, "answer": str(row["label"] + 1)}


CHOICES: list[tuple[str, str, Callable[[Row], Row]]] = [
    ("hellaswag_val.jsonl.gz", "hellaswag_val.jsonl", _hellaswag),
    ("boolq_val_nopassage.jsonl", "boolq/dev.jsonl", _boolq),
    ("piqa_val.jsonl", "physicaliqa/valid.jsonl", _piqa),
    ("siqa_val.jsonl", "socialiqa/dev.jsonl", _siqa),
    ("winogrande_val.jsonl", "winogrande/dev.jsonl", _winogrande),
    ("arc_easy_train.jsonl", "ARC-Easy-Train.jsonl", _stem),
    ("arc_easy_test.jsonl", "ARC-Easy-Test.jsonl", _stem),
    ("arc_challenge_train.jsonl", "ARC-Challenge-Train.jsonl", _stem),
    ("arc_challenge_test.jsonl", "ARC-Challenge-Test.jsonl", _stem),
    ("openbookqa_train.jsonl", "OpenBookQA-V1-Sep2018/Data/Main/train.jsonl", _stem),
    ("openbookqa_test.jsonl", "OpenBookQA-V1-Sep2018/Data/Main/test.jsonl", _stem),
]


def _mmlu(path: Path, folder: Path) -> None:
    """MMLU-Redux: either separator, and whatever encoding; five rows are the examples."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
    separator = ";" if text.startswith("question;") else ","
    rows = []
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=separator):
        choices = ast.literal_eval(row["choices"])
        if row["answer"].strip().isdigit() and len(choices) == 4:
            rows.append([row["question"], *choices, "ABCD"[int(row["answer"])]])
    subject = path.stem.removeprefix("mmlu_")
    _csv(folder / f"{subject}_dev.csv", rows[:5])
    _csv(folder / f"{subject}_test.csv", rows[5:])


def _split(path: Path, folder: Path, examples: int) -> None:
    header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    _csv(folder / "dev" / path.name, [header, *rows[:examples]])
    _csv(folder / "test" / path.name, [header, *rows[examples:]])


def _jsonl(path: Path) -> Iterator[Row]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return (json.loads(line) for line in text.splitlines() if line.strip())


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _csv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)
