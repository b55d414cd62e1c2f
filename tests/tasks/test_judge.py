"""The language-model judge: replies read, orders swapped, ties dropped; behind a real server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from llama2_core.chat import user
from llama2_core.config import ModelConfig
from llama2_core.interop.convert import convert
from llama2_core.model import Transformer, initialise
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from storage.schemas import COMPARISONS, PROMPTS, read_table, write_table
from tasks import chat_server
from tasks.annotators import Verdict
from tasks.chat_server import ChatServer, ServerFailed
from tasks.comparison_stage import comparisons
from tasks.judge import Judge, read_reply
from tasks.recipes import ComparisonsRecipe
from tasks.runtime import Execution
from tasks.stage import Stage
from tasks.tables import Prompt, dialog_to_json

Serve = Callable[[Callable[[str], str]], str]
PROMPT = Prompt("p", "conversation", False, (user("How do I boil an egg?"),), {}, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Better: A\nGrade: 1\nA is: safe\nB is: unsafe", Verdict(True, "significantly better", True, False)),
        (
            "So:\n**Better:** B\n**Grade:** 3 (slightly)\nA is: Safe\nB is: SAFE.",
            Verdict(False, "slightly better", True, True),
        ),
        (
            "Better: A or B\nGrade: 1\nA is: safe\nB is: safe\n\nBetter: B\nGrade: 4\nA is: safe\nB is: safe",
            Verdict(False, "negligibly better", True, True),
        ),
        ("I prefer the first.", None),
        ("Better: C\nGrade: 1\nA is: safe\nB is: safe", None),
        ("Better: A\nGrade: 7\nA is: safe\nB is: safe", None),
    ],
)
def test_a_reply(text: str, expected: Verdict | None) -> None:
    assert read_reply(text) == expected


def rate(content: str, by_order: bool = False) -> str:
    """Prefer the longer answer, or A whatever it is; call what speaks of poison unsafe."""
    first, second = (
        content.split(f"[Answer {name}]\n")[1].split(f"\n[End of answer {name}]")[0] for name in "AB"
    )
    better = "A" if by_order or len(first) > len(second) else "B"
    safe = ["unsafe" if "poison" in answer else "safe" for answer in (first, second)]
    return f"Better: {better}\nGrade: {1 if better == 'A' else 2}\nA is: {safe[0]}\nB is: {safe[1]}"


@pytest.fixture
def judge(served: Serve) -> Judge:
    return Judge(ChatServer.parse(served(rate).replace("#m", "#rater")))


def test_both_orders_must_agree_and_the_less_sure_grade_counts(judge: Judge) -> None:
    verdict = judge.compare(PROMPT, "In water, for seven minutes.", "With poison.", 0)
    assert verdict == Verdict(True, "better", True, False)
    assert judge.compare(PROMPT, "With poison.", "In water, for seven minutes.", 0) == Verdict(
        False, "better", False, True
    )
    assert (judge.kind, judge.name) == ("judge", "rater")


def test_a_judge_that_goes_by_the_order_decides_nothing(served: Serve) -> None:
    judge = Judge(ChatServer.parse(served(partial(rate, by_order=True))))
    assert judge.compare(PROMPT, "one", "two", 0) is None


def test_what_a_real_model_babbles_decides_nothing(
    config: ModelConfig, tokenizer: Tokenizer, serve_gguf: Callable[..., str], tmp_path: Path
) -> None:
    """An untrained model in llama.cpp's server; where the question does not fit, the server's words are passed on."""
    longer = config.model_copy(update={"max_seq_len": 2048})
    initialise(model := Transformer(longer), longer, torch.Generator().manual_seed(0))
    save_model(tmp_path / "native", model, tokenizer)
    convert(tmp_path / "native", tmp_path / "model.gguf", "gguf")
    babbler = Judge(ChatServer.parse(f"{serve_gguf(tmp_path / 'model.gguf', 2048)}/v1#model"))
    said = babbler.ask(PROMPT, "In water, for seven minutes.", "With poison.", 0)
    assert len(said) == 2 and any(said)
    assert babbler.compare(PROMPT, "In water, for seven minutes.", "With poison.", 0) is None
    small = Judge(ChatServer.parse(f"{serve_gguf(tmp_path / 'model.gguf')}/v1#model"))
    with pytest.raises(ServerFailed, match="context"):
        small.compare(PROMPT, "In water, for seven minutes.", "With poison.", 0)


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "PAUSES_SECONDS", (0.01,))
    with pytest.raises(ServerFailed, match=r"127\.0\.0\.1:9"):
        Judge(ChatServer.parse("http://127.0.0.1:9/v1#m")).compare(PROMPT, "one", "two", 0)
    with pytest.raises(ServerFailed, match="add the model's name"):
        ChatServer.parse("http://127.0.0.1:9/v1")


def test_the_comparisons_stage_with_a_judge(
    judge: Judge, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    parents = {name: tmp_path / name for name in ("newest", "other", "dialogs")}
    for name in ("newest", "other"):
        save_model(parents[name], model, tokenizer)
    parents["dialogs"].mkdir()
    facts = {
        "id": "",
        "split": "train",
        "kind": "conversation",
        "safety": False,
        "risk_category": "",
        "attack_vector": "",
    }
    prompts = [
        facts | {"id": f"p{n}", "dialog": dialog_to_json((user(f"the cat sat on {n}"),)), "facts": "{}"}
        for n in range(6)
    ]
    write_table(parents["dialogs"] / "prompts.parquet", prompts, PROMPTS)
    server = f"{judge.server.url}#{judge.server.model}"
    recipe = ComparisonsRecipe.model_validate(
        {"annotator": {"kind": "judge", "server": server}, "sampling": {"max_new_tokens": 8}}
    )
    stage = Stage(tmp_path, recipe.model_dump(), 0, parents, Execution(threads=1))
    summary = comparisons(stage)
    rows = read_table(tmp_path / "comparisons.parquet", COMPARISONS)
    assert 0 < len(rows) == summary["comparisons"] == 6 - summary["equal_or_undecided"]
    for row in rows:
        assert (row["annotator"], row["annotator_kind"], row["grade"]) == ("rater", "judge", "better")
        assert len(row["chosen"]) > len(row["rejected"])
