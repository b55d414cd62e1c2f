"""Text and chat completion: the reference's rules, streaming, echo."""

import pytest
import torch

from llama2_core.chat import TAGS, Message, assistant, encode_prompt, user
from llama2_core.completion import chat_completion, stream_completion, text_completion, until_stop
from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.generate import Request, stream
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer

SHORT = SamplingConfig(temperature=1.0, max_new_tokens=8)


def test_text_completion_gives_text_tokens_and_logprobs(model: Transformer, tokenizer: Tokenizer) -> None:
    first, second = text_completion(model, tokenizer, ["the cat", "a dog ran"], SHORT)
    assert first.text == tokenizer.decode(first.tokens)
    assert len(first.tokens) == len(first.logprobs) == 8 or first.finish == "eos"
    assert second.tokens != first.tokens
    assert text_completion(model, tokenizer, ["the cat", "a dog ran"], SHORT) == [first, second]


def test_echo_puts_the_prompt_and_its_logprobs_first(model: Transformer, tokenizer: Tokenizer) -> None:
    (plain,) = text_completion(model, tokenizer, ["the cat sat"], SHORT)
    (echoed,) = text_completion(model, tokenizer, ["the cat sat"], SHORT, echo=True)
    prompt = tokenizer.encode("the cat sat", bos=True)
    assert echoed.tokens == prompt + plain.tokens
    assert echoed.text == "the cat sat" + plain.text
    with torch.no_grad():
        logprobs = model(torch.tensor([echoed.tokens]))[0].log_softmax(-1)
    expected = [logprobs[place, token].item() for place, token in enumerate(echoed.tokens[1:])]
    assert echoed.logprobs[0] == 0.0
    assert echoed.logprobs[1:] == pytest.approx(expected, abs=1e-5)


def test_chat_completion_answers_the_last_turn(model: Transformer, tokenizer: Tokenizer) -> None:
    dialogs = [
        [user("the cat")],
        [Message(role="system", content="a mat"), user("the dog"), assistant("ran"), user("to")],
    ]
    answers = chat_completion(model, tokenizer, dialogs, SHORT)
    seeded = {
        i: [s.token for s in stream(model, [Request(encode_prompt(d, tokenizer), seed, SHORT)], 2)]
        for (i, d), seed in zip(enumerate(dialogs), _seeds(2), strict=True)
    }
    assert [answers[i].tokens for i in (0, 1)] == [[t for t in seeded[i] if t != 2] for i in (0, 1)]


def _seeds(count: int) -> list[int]:
    from llama2_core.seeding import derive_seed

    return [derive_seed(1, i) for i in range(count)]


@pytest.mark.parametrize(
    ("dialog", "message"),
    [
        ([user("a"), user("b")], "turn 1 of the dialog is by 'user'; expected 'assistant'"),
        ([user("a"), assistant("b")], "must end with a turn by 'user'"),
        ([user("say [INST] to me")], r"message 0 of the dialog holds the template's tag \[INST\]"),
        ([user("cat " * 100)], "prompt 0 has"),
    ],
)
def test_what_the_reference_asserts_is_an_error_in_a_sentence(
    model: Transformer, tokenizer: Tokenizer, dialog: list[Message], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        chat_completion(model, tokenizer, [dialog], SHORT)


def test_streamed_pieces_are_the_text(model: Transformer, tokenizer: Tokenizer) -> None:
    for seed in range(5):
        request = Request([1, 5, 9], seed, SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=30))
        tokens = [s.token for s in stream(model, [request], tokenizer.eos_id)]
        pieces = list(stream_completion(model, tokenizer, request))
        assert "".join(pieces) == tokenizer.decode(tokens)
        assert len(pieces) == len(tokens)


def test_a_stop_text_is_never_shown_not_even_its_beginning(model: Transformer, tokenizer: Tokenizer) -> None:
    config = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=30)
    whole = "".join(stream_completion(model, tokenizer, Request([1, 5, 9], 1, config)))
    stop = whole[8:14]
    stopped = Request([1, 5, 9], 1, config.model_copy(update={"stop": (stop,)}))
    assert "".join(stream_completion(model, tokenizer, stopped)) == whole[: whole.find(stop)]


def test_until_stop() -> None:
    assert until_stop("seven [/INST] nine [INST]", TAGS) == "seven "
    assert until_stop("seven", TAGS) == "seven"
