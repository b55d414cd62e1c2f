"""A frozen batch is what models learn from: majorities, without ties and excluded rows, split by prompt."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llama2_core.tokenizer import Tokenizer
from storage.artifacts import Store
from storage.errors import StorageError
from storage.preference_events import BatchFrozen, Comparison, Response
from storage.preference_log import PreferenceLog
from storage.schemas import COMPARISONS, read_table
from tasks.preferences import write_frozen
from tasks.tables import held_out_draw
from tests.storage.test_preference_log import NOW, compared

A, B = Response(text="a fine answer", safe=True, model="new"), Response(text="b", safe=False, model="old")


def answered(question: str, *votes: tuple[int, str], **known: Any) -> list[Comparison]:
    """Return one annotation a vote: which response is chosen, and how surely."""
    return [
        compared(
            f"{question}-{number}",
            question=question,
            annotator=f"person {number}",
            chosen=chosen,
            grade=grade,
            responses=(A, B),
            prompt_id=f"prompt-{question}",
            **known,
        )
        for number, (chosen, grade) in enumerate(votes)
    ]


def frozen(folder: Path, batches: dict[str, list[Comparison]], **rules: Any) -> None:
    with PreferenceLog(folder / "preferences") as log:
        for number, (batch, made) in enumerate(batches.items()):
            for comparison in made:
                log.append(comparison.model_copy(update={"batch": batch, "id": f"{batch}-{comparison.id}"}))
            log.append(BatchFrozen(id=batch, time=NOW + timedelta(days=number), **rules))


def rows_of(folder: Path, batch: str, tokenizer: Tokenizer | None = None) -> tuple[list[dict], dict, str]:
    path = folder / f"{batch}.parquet"
    facts, digest = write_frozen(Store(folder / "artifacts"), batch, path, tokenizer)
    return read_table(path, COMPARISONS), facts, digest


def test_most_annotators_decide(tmp_path: Path) -> None:
    made = [
        *answered("alone", (1, "better")),
        *answered("most", (0, "better"), (1, "significantly better"), (0, "negligibly better")),
        *answered("tie", (0, "better"), (1, "better")),
        *answered("unsafe", (1, "better"), domain="safety"),
        *answered("safe", (0, "better"), domain="safety", risk_category="theft", attack_vector="role play"),
    ]
    frozen(tmp_path, {"week-1": made}, held_out_share=0)
    rows, facts, _ = rows_of(tmp_path, "week-1")
    table = {row["id"].split("-")[2]: row for row in rows}
    assert {name: (row["chosen"], row["grade"], row["annotations"]) for name, row in table.items()} == {
        "alone": ("b", "better", 1),
        "most": ("a fine answer", "negligibly better", 3),  # the less sure of two
        "safe": ("a fine answer", "better", 1),
    }
    safe = table["safe"]
    assert (safe["safety_bin"], safe["chosen_safe"], safe["rejected_safe"]) == (
        "chosen safe, other unsafe",
        True,
        False,
    )
    assert (safe["risk_category"], safe["attack_vector"]) == ("theft", "role play")
    assert (table["most"]["chosen_model"], table["alone"]["chosen_model"]) == ("new", "old")
    assert (table["most"]["annotator"], table["most"]["annotator_kind"]) == (
        "person 0, person 1, person 2",
        "person",
    )
    lengths = ("unit", "turns", "prompt_length", "dialog_length", "chosen_length", "rejected_length")
    assert [table["alone"][name] for name in lengths] == ["words", 1, 5, 5, 1, 3]
    assert {name: facts[name] for name in ("comparisons", "annotations", "ties", "excluded", "held_out")} == {
        "comparisons": 3,
        "annotations": 8,
        "ties": 1,
        "excluded": 1,
        "held_out": 0,
    }
    assert facts["grades"] == {"better": 2, "negligibly better": 1}
    assert facts["agreement"]["helpfulness"]["n"] == 2 and facts["agreement"]["safety"]["n"] == 0


def test_responses_shown_the_other_way_round_are_the_same_question(tmp_path: Path) -> None:
    made = answered("q", (0, "better"), (1, "better"), (0, "slightly better"))
    made[1] = made[1].model_copy(update={"responses": (B, A)})
    frozen(tmp_path, {"week-1": made})
    [row], facts, _ = rows_of(tmp_path, "week-1")
    assert (row["chosen"], row["annotations"], facts["ties"]) == ("a fine answer", 3, 0)


def test_splits_are_disjoint_by_prompt_and_limited_by_batch(tmp_path: Path) -> None:
    first = [one for n in range(100) for one in answered(f"q{n}", (0, "better"))]
    second = [one for n in range(50, 200) for one in answered(f"q{n}", (0, "better"))]
    frozen(tmp_path, {"week-1": first, "week-2": second}, held_out_share=0.3, most_held_out=20, seed=3)
    split: dict[str, set[str]] = {"train": set(), "held out": set()}
    for batch in ("week-1", "week-2"):
        rows, facts, digest = rows_of(tmp_path, batch)
        held_out = [row["prompt_id"] for row in rows if row["held_out"]]
        assert facts["held_out"] == len(held_out)
        split["held out"] |= set(held_out)
        split["train"] |= {row["prompt_id"] for row in rows if not row["held_out"]}
        assert rows_of(tmp_path, batch)[2] == digest
        assert len(held_out) == 20
    assert not split["train"] & split["held out"]
    draws = {f"prompt-q{n}": held_out_draw(3, f"prompt-q{n}") for n in range(100)}
    assert {name for name in draws if name in split["held out"]} == set(
        sorted(draws, key=draws.__getitem__)[:20]
    )


def test_lengths_are_counted_in_tokens_when_a_tokenizer_is_given(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    frozen(tmp_path, {"week-1": answered("q", (0, "better"))})
    [row], _, digest = rows_of(tmp_path, "week-1", tokenizer)
    assert row["unit"] == f"tokens of {tokenizer.digest[:12]}"
    assert row["chosen_length"] == len(tokenizer.encode("a fine answer"))
    assert row["prompt_length"] == row["dialog_length"] == len(tokenizer.encode("What is 2 + 3?"))
    assert digest != rows_of(tmp_path, "week-1")[2]


def test_an_open_batch_is_refused(tmp_path: Path) -> None:
    with PreferenceLog(tmp_path / "preferences") as log:
        log.append(compared("a"))
    with pytest.raises(StorageError, match="week-1 is not frozen"):
        rows_of(tmp_path, "week-1")
    assert not (tmp_path / "week-1.parquet").exists()


@pytest.mark.slow
def test_people_s_comparisons_come_to_reward_models_by_command(tmp_path: Path) -> None:
    """Import, status, freeze: the artifact is read as the simulated annotator's are, its tables are in both UIs."""
    import os
    import subprocess
    import sys

    from storage.tracking import Tracker

    def llama2(*words: str) -> str:
        command = [sys.executable, "-m", "deployments.cli", *words, "--home", str(tmp_path)]
        environment = {**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    lines = [
        {"chosen": f"\n\nHuman: {n}?\n\nAssistant: {n}.", "rejected": f"\n\nHuman: {n}?\n\nAssistant: no."}
        for n in range(60)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "60 comparisons (hh-rlhf) imported as batch mine" in llama2("preferences", "import", str(file))
    assert json.loads(llama2("preferences", "status", "--json"))[0]["questions"] == 60
    assert "60 comparisons of 60 annotations" in llama2("preferences", "freeze", "mine")
    store = Store(tmp_path / "artifacts")
    [artifact] = store.artifacts()
    store.verify(artifact)
    rows = read_table(artifact.file("comparisons.parquet"), COMPARISONS)
    assert len(rows) == 60 and 0 < sum(row["held_out"] for row in rows) == artifact.summary["held_out"] < 30
    assert "mine" in llama2("sql", "@table26", "--json")
    tracking = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "llama2", tmp_path / "mlflow")
    run = tracking.newest(artifact.digest)
    assert list((tmp_path / "mlflow").glob(f"**/{run}/**/preferences/table6.json"))
