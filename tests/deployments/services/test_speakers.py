"""Answers of a process of its own: those of the engine, several at once, and what happens when it ends."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.services.speakers import MOST_OPEN, Answer, Speakers
from llama2_core.chat import TAGS, encode_prompt, user
from llama2_core.completion import chat_completion, stream_completion
from llama2_core.config import SamplingConfig
from llama2_core.generate import Request
from llama2_core.interop.convert import convert, load

CONFIG = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=20)


def finished(*answers: Answer) -> list[Answer]:
    deadline = time.monotonic() + 60
    while not all(answer.done for answer in answers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return list(answers)


def test_it_says_what_the_engine_says(speakers: Speakers) -> None:
    asked = [speakers.ask(name, [user("the cat")], CONFIG, 5) for name in ("newest", "other", "newest")]
    said = finished(*asked)
    for name, answer in zip(("newest", "other", "newest"), said, strict=True):
        model, tokenizer = load(Path(speakers.models[name]))
        config = CONFIG.model_copy(update={"stop": TAGS})
        request = Request(encode_prompt([user("the cat")], tokenizer), 5, config)
        assert answer.text == "".join(stream_completion(model, tokenizer, request))
        assert answer.finish in ("eos", "stop", "length")


@pytest.mark.parametrize(
    ("text", "reason"), [("the cat sat on a mat " * 60, "fewer words"), ("[INST] hello", "tag")]
)
def test_what_cannot_be_answered_says_why_and_holds_nobody_up(
    speakers: Speakers, text: str, reason: str
) -> None:
    good, bad = finished(
        speakers.ask("newest", [user("the cat")], CONFIG, 1), speakers.ask("newest", [user(text)], CONFIG, 1)
    )
    assert reason in bad.error
    assert good.finish and not good.error


def test_a_missing_model_is_named(
    speakers: Speakers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(speakers.models, "gone", str(tmp_path / "gone"))
    assert "gone" in finished(speakers.ask("gone", [user("the cat")], CONFIG, 1))[0].error


def test_a_killed_process_says_so_and_the_next_question_starts_another(speakers: Speakers) -> None:
    lost = Speakers(speakers.models)
    long = CONFIG.model_copy(update={"max_new_tokens": 100})
    answer = lost.ask("newest", [user("the cat")], long, 1)
    assert lost._process
    lost._process.kill()
    assert "ask again" in finished(answer)[0].error
    assert finished(lost.ask("newest", [user("the cat")], CONFIG, 1))[0].text
    lost.close()


def test_too_many_questions_are_refused(speakers: Speakers, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Speakers(speakers.models)
    waiting._open = {-n: Answer() for n in range(MOST_OPEN)}
    assert "too many" in waiting.ask("newest", [user("the cat")], CONFIG, 1).error


def test_a_server_with_openais_api(
    speakers: Speakers, serve_gguf: Callable[[Path], str], tmp_path: Path
) -> None:
    """llama.cpp's own, with our export in it: greedily it says what we say; a dead one is named."""
    model, tokenizer = load(Path(speakers.models["newest"]))
    convert(Path(speakers.models["newest"]), tmp_path / "model.gguf", "gguf")
    url = serve_gguf(tmp_path / "model.gguf")
    remote = Speakers({"llama.cpp": f"{url}/v1#model", "dead": "http://127.0.0.1:9/v1#m"})
    greedy = CONFIG.model_copy(update={"temperature": 0.0})
    theirs, dead = finished(*(remote.ask(name, [user("the cat sat")], greedy, 1) for name in remote.models))
    remote.close()
    assert (
        theirs.text.strip()
        == chat_completion(model, tokenizer, [[user("the cat sat")]], greedy)[0].text.strip()
    )
    assert theirs.text.strip()
    assert "127.0.0.1:9" in dead.error
