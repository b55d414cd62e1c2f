"""Files of others come in whole or not at all, and what is wrong with them is said by line."""

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import Store
from storage.errors import SourceError
from storage.preference_events import Comparison, Turn, Undo
from storage.preference_formats import FORMATS, Format, write_row
from storage.preference_imports import comparisons, export, import_file
from storage.preference_log import PreferenceLog
from storage.preferences import named_query, query
from tests.storage.test_preference_log import NOW, compared

DATA = Path(__file__).parents[3] / "shared" / "data"
DIALOG = tuple(
    Turn(role=role, content=text)
    for role, text in (("user", "Hi"), ("assistant", "Hello."), ("user", "2+3?"))
)


def text_of(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_is_imported_again(form: Format, tmp_path: Path) -> None:
    single = form in ("openai", "argilla")
    with PreferenceLog(tmp_path / "a") as log:
        log.append(compared("a", chosen=1, **({} if single else {"dialog": DIALOG})))
        log.append(compared("b"))
        log.append(compared("c"))
        log.append(Undo(id="c", annotator="Ann Ö", time=NOW))
    file = tmp_path / "out.jsonl"
    assert export(tmp_path / "a", file, form) == 2
    done = import_file(tmp_path / "b", file, "others", "helpfulness")
    assert (done.comparisons, done.bad, done.format) == (2, [], form)
    first, second = comparisons(tmp_path / "b")
    assert first.responses[first.chosen].text.strip() == '"6"'
    assert second.responses[second.chosen].text == "It is 5."
    assert len(first.dialog) == (3 if form in ("llama2", "hh-rlhf", "sharegpt", "ultrafeedback") else 1)
    if form in ("llama2", "argilla"):
        assert (first.grade, first.annotator) == ("better", "Ann Ö")
    again = import_file(tmp_path / "b", file, "others", "helpfulness")
    assert again.already_there and len(list(comparisons(tmp_path / "b"))) == 2


def ultrafeedback(**changes: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "2+3?"}
    answers = [[asked, {"role": "assistant", "content": text}] for text in ("5", "6")]
    return {"prompt": "2+3?", "chosen": answers[0], "rejected": answers[1]} | changes


def argilla(**changes: Any) -> dict[str, Any]:
    fields = {"prompt": "2+3?", "response1": "5", "response2": "6"}
    return {
        "fields": fields,
        "responses": {"preference": [{"user_id": "u", "value": "response2"}], **changes},
    }


BAD: list[tuple[Format, dict[str, Any], str]] = [
    ("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: b"}, "rejected: is missing"),
    ("hh-rlhf", {"chosen": "Human: a", "rejected": "b"}, "chosen: does not begin"),
    ("ultrafeedback", ultrafeedback(rejected=ultrafeedback()["chosen"]), "responses: both are equal"),
    ("ultrafeedback", ultrafeedback(score_chosen=3, score_rejected=3), "score_chosen: equals"),
    ("ultrafeedback", ultrafeedback(chosen="5"), "chosen: is missing, or holds no turns"),
    ("sharegpt", {"conversations": [{"from": "bot", "value": "a"}]}, "conversations: turn 1 is by 'bot'"),
    ("openai", {"info": {"post": "a"}, "summaries": [{"text": "b"}], "choice": 0}, "summaries: are not two"),
    ("openai", {"info": {"post": "a"}, "summaries": [{"text": "b"}] * 2, "choice": 3}, "choice: is 3"),
    ("argilla", argilla(preference=[{"user_id": "u", "value": "response3"}]), "unknown label 'response3'"),
    ("argilla", argilla(grade=[{"user_id": "u", "value": "much"}]), "responses.grade: of u is 'much'"),
    ("llama2", write_row(compared("a"), "llama2") | {"grade": None}, "grade: is missing"),
    ("llama2", write_row(compared("a"), "llama2") | {"grade": "much better"}, "grade: Input should be"),
    ("llama2", write_row(compared("a"), "llama2") | {"shown": 1}, "shown: Extra inputs"),
]


@pytest.mark.parametrize(("form", "row", "reason"), BAD)
def test_a_bad_line_is_named_and_nothing_is_imported(
    form: Format, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    good = write_row(compared("a"), form)
    file = tmp_path / "bad.jsonl"
    file.write_text(text_of([good, row, good]) + "{\n[]\n")
    with pytest.raises(SourceError) as refused:
        import_file(tmp_path / "p", file, "others", "helpfulness")
    said = str(refused.value)
    assert f"bad.jsonl:2: {reason}" in said or (
        f"bad.jsonl:2: responses.preference.0: has the {reason}" in said
    )
    assert "bad.jsonl:4: JSON: cannot be read" in said and "bad.jsonl:5: JSON: is not an object" in said
    assert "3 bad and 2 good lines" in said
    assert list(comparisons(tmp_path / "p")) == []
    assert not list((tmp_path / "p" / "imports").iterdir())
    done = import_file(tmp_path / "p", file, "others", "helpfulness", skip_bad=True)
    assert (done.comparisons, len(done.bad)) == (2, 3)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, content, reason in (
        ("a.jsonl", b"", "cannot be told"),
        ("b.jsonl", b'{"text": "a"}\n', "cannot be told from its first row"),
        ("c.jsonl", "caf\xe9".encode("latin-1"), "not UTF-8"),
        (
            "d.jsonl.gz",
            gzip.compress(text_of([write_row(compared("a"), "hh-rlhf")] * 99).encode())[:-9],
            "cannot",
        ),
        ("e.json", b'[{"conversations": 1, "chosen": 1, "rejected": 1}, {]', "e.json:1: JSON"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=reason):
            import_file(tmp_path / "p", tmp_path / name, "others", "helpfulness")
    assert list(comparisons(tmp_path / "p")) == []


def test_several_annotators_of_an_argilla_record_answer_one_question(tmp_path: Path) -> None:
    given = [{"user_id": name, "value": value} for name, value in (("u", "response1"), ("v", "response2"))]
    ranked = {"user_id": "w", "value": [{"value": "response1", "rank": 2}, {"value": "response2", "rank": 1}]}
    file = tmp_path / "a.jsonl"
    file.write_text(text_of([argilla(preference=[*given, ranked])]))
    import_file(tmp_path / "p", file, "others", "helpfulness")
    found = list(comparisons(tmp_path / "p"))
    assert [(one.annotator, one.chosen) for one in found] == [("u", 0), ("v", 1), ("w", 1)]
    assert len({one.question for one in found}) == 1


def test_real_data(tmp_path: Path) -> None:
    """Table 6's rows for 1,500 pairs of hh-rlhf and 599 of ShareGPT."""
    if not DATA.exists():
        pytest.skip(f"{DATA} is absent")
    store = Store(tmp_path / "artifacts")
    folder = tmp_path / "preferences"
    pairs = DATA / "hh_rlhf" / "harmless-base_test.jsonl.gz"
    done = import_file(folder, pairs, "harmless", "safety", skip_bad=True)
    lines = {int(bad.place.rsplit(":", 1)[1]) for bad in done.bad}
    assert done.comparisons + len(lines) == 1500
    rows = [json.loads(line) for line in gzip.decompress(pairs.read_bytes()).decode().splitlines()]
    for line in lines:  # an empty answer, another dialog, or two turns of one speaker
        chosen, rejected = (rows[line - 1][name] for name in ("chosen", "rejected"))
        dialogs = [text.rpartition("\n\nAssistant:")[0] for text in (chosen, rejected)]
        speakers = [
            part.split(":")[0] for part in chosen.split("\n\n") if part.startswith(("Human:", "Assistant:"))
        ]
        blank = any(
            text.endswith("Assistant:") or text.endswith("Assistant: ") for text in (chosen, rejected)
        )
        doubled = any(a == b for a, b in pairwise(speakers))
        assert blank or doubled or dialogs[0] != dialogs[1], rows[line - 1]
    for name in ("en", "zh"):
        demos = DATA / "preference_demos" / f"dpo_{name}_demo.json"
        done = import_file(folder, demos, name, "helpfulness")
        assert (done.comparisons, done.bad) == (len(json.loads(demos.read_text())), [])
    columns, values = query(store, named_query("table6"))
    table = {row[0]: dict(zip(columns, row, strict=True)) for row in values}
    assert (table["harmless"]["comparisons"], table["en"]["comparisons"], table["zh"]["comparisons"]) == (
        1492,
        299,
        300,
    )
    assert table["Total"]["comparisons"] == 2091
    first = next(one for one in comparisons(folder) if one.batch == "en")
    assert isinstance(first, Comparison) and first.lengths and first.lengths.unit == "words"
    assert table["harmless"]["turns"] == pytest.approx(2.5, abs=0.05)
