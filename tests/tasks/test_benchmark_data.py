"""Benchmarks' files: recognised, checked, hashed; what is wrong with one is said."""

import json
from pathlib import Path

import pytest

from llama2_core.errors import DataError
from storage.artifacts import Store
from storage.disk import content_digest
from tasks.benchmark_data import add, datasets, needs, newest, recognise, rows_of, splits_of
from tests.tasks import benchmark_files

ROW = {"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_becomes_an_artifact_with_its_hash_and_joins_what_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    test, train = jsonl(tmp_path / "test.jsonl", [ROW] * 1319), jsonl(tmp_path / "train.jsonl", [ROW] * 7473)
    (first,) = add([test], store)
    (second,) = add([train], store)
    assert first.manifest.recipe == {"dataset": "gsm8k", "files": {"test.jsonl": content_digest(test)}}
    assert second.summary["rows"] == {"default/test": 1319, "default/train": 7473}
    assert second.manifest.recipe["files"].keys() == {"test.jsonl", "train.jsonl"}
    assert newest(store)["gsm8k"].digest == second.digest
    (again,) = add([train], store)
    assert again.digest == second.digest
    files = splits_of({"gsm8k": second.path})
    assert files[("openai/gsm8k", "main")].keys() == {"test", "train"}


def test_another_number_of_rows_is_refused_unless_a_part_is_wanted(tmp_path: Path) -> None:
    store, part = Store(tmp_path / "artifacts"), jsonl(tmp_path / "test.jsonl", [ROW] * 3)
    with pytest.raises(DataError, match=r"gsm8k: test.jsonl has 3 rows, expected 1319.*--partial"):
        add([part], store)
    assert not newest(store)
    (kept,) = add([part], store, partial=True)
    assert kept.summary["part_only"] == ["test.jsonl has 3 rows, expected 1319"]


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    with pytest.raises(DataError, match="record 2 lacks answer, as gsm8k needs them"):
        add([jsonl(tmp_path / "test.jsonl", [ROW, {"question": "?"}])], store, "gsm8k", partial=True)
    with pytest.raises(DataError, match="not recognised: for gsm8k its first record lacks question, answer"):
        add([jsonl(tmp_path / "a" / "test.jsonl", [{"text": "?"}])], store)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", "{torn", "not readable as jsonl"),
        ("mine.bin", "x", "no benchmark has a file so named"),
        (
            "SVAMP.json",
            '[{"ID": 1, "Body": 2, "Question": "?", "Equation": "", "Answer": 1, "Type": ""}]',
            "not svamp as",
        ),
    ],
)
def test_what_is_malformed_is_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        add([tmp_path / name], Store(tmp_path / "artifacts"), partial=True)


def test_a_file_without_its_labels_is_told(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "valid.jsonl", [{"goal": "?", "sol1": "a", "sol2": "b"}])
    with pytest.raises(DataError, match=r"for piqa its first record lacks valid-labels.lst beside it"):
        add([path], Store(tmp_path / "artifacts"))


def test_every_file_of_every_maker_is_recognised_as_one_data_set(tmp_path: Path) -> None:
    folder = benchmark_files.write(tmp_path)
    found = {path: recognise(path, strict=False) for path in sorted(folder.rglob("*")) if path.is_file()}
    assert all(len(each) == 1 for path, each in found.items() if not path.name.endswith(".lst"))
    assert all(rows_of(each[0]) for each in found.values() if each)


def test_parts_of_a_set_are_counted(tmp_path: Path) -> None:
    folder = benchmark_files.write(tmp_path / "files")
    with pytest.raises(
        DataError, match=r"mmlu: \{config\}_dev.csv has 1 of its 57 parts; \{config\}_test.csv has 1"
    ):
        add([folder / "mmlu"], Store(tmp_path / "artifacts"))


@pytest.mark.parametrize(
    ("dataset", "path", "row", "expected"),
    [
        (
            "mawps",
            "mawps_fold0_dev.csv",
            'Question,Numbers,Equation,Answer\n"He has number0 and number1 .",9.0 2.5,+ number0 number1,11.5\n',
            {"question": "He has 9 and 2.5 .", "answer": 11.5},
        ),
        (
            "pubchemqa",
            "PubChemQA/test.json",
            json.dumps([{"source": "x", "smiles": ["CO", "C"], "question": "What?", "answer": "Methanol."}]),
            {"subject": "CO.C", "question": "What?", "answer": "Methanol."},
        ),
        (
            "uniprotqa",
            "UniProtQA/test.json",
            json.dumps(
                [{"source": "x", "protein_accession": ["P1"], "question": "Which?", "answer": "A kinase."}]
            ),
            {"subject": "MKV", "question": "Which?", "answer": "A kinase."},
        ),
        (
            "agieval",
            "data/v1/aqua-rat.jsonl",
            json.dumps(
                {
                    "passage": None,
                    "question": "1+1?",
                    "options": ["(A)1", "(B)2"],
                    "label": "B",
                    "answer": None,
                }
            ),
            {
                "query": "Q: 1+1? Answer Choices: (A)1 (B)2\nA: Among A through B, the answer is",
                "choices": ["(A)1", "(B)2"],
                "gold": [1],
            },
        ),
        (
            "bold",
            "gender_prompt.json",
            json.dumps({"American_actors": {"A_B": ["A B is an actor "]}}),
            {"domain": "gender", "group": "American_actors", "prompt": "A B is an actor"},
        ),
    ],
)
def test_rows_are_what_the_task_files_read(
    tmp_path: Path, dataset: str, path: str, row: str, expected: dict
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(row)
    (file.parent / "sequences.json").write_text('{"P1": "MKV"}')
    (found,) = recognise(file, dataset)
    assert rows_of(found) == [expected]


def test_a_task_needs_the_data_that_its_file_names() -> None:
    assert needs({"dataset_path": "allenai/ai2_arc", "dataset_name": "ARC-Easy"}) == ["arc_easy"]
    assert needs({"dataset_path": "hails/agieval-sat-en", "dataset_name": None}) == ["agieval"]
    assert needs({"dataset_path": "cais/mmlu", "dataset_name": "anatomy"}) == ["mmlu"]
    assert needs({"dataset_path": "somebody/else"}) == []


def test_the_table_has_every_data_set_of_the_list() -> None:
    listed = (
        "natural_questions mmlu gsm8k triviaqa humaneval hellaswag boolq math piqa commonsenseqa truthfulqa "
        "mbpp svamp arc_easy arc_challenge mawps toxigen pubchemqa uniprotqa siqa winogrande openbookqa "
        "squad quac bbh agieval bold"
    )
    assert set(listed.split()) <= datasets().keys()
