"""Text and chat completion: the reference's rules, streaming, echo."""

import pytest
import torch

from llama2_core.cache import KVCache
from llama2_core.chat import TAGS, Message, assistant, encode_prompt, user
from llama2_core.completion import (
    chat_completion,
    stream_completion,
    stream_said,
    text_completion,
    until_stop,
)
from llama2_core.config import ModelConfig, RopeScaling, SamplingConfig
from llama2_core.errors import DataError
from llama2_core.generate import Request, stream
from llama2_core.model import Transformer, initialise
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
    assert echoed.text == tokenizer.decode(echoed.tokens)
    assert echoed.pieces == [tokenizer.decode([token]) for token in echoed.tokens]
    with torch.no_grad():
        logprobs = model(torch.tensor([echoed.tokens]))[0].log_softmax(-1)
    expected = [logprobs[place, token].item() for place, token in enumerate(echoed.tokens[1:])]
    assert echoed.logprobs[0] == 0.0
    assert echoed.logprobs[1:] == pytest.approx(expected, abs=1e-5)


def test_echo_keeps_the_space_before_the_answer_and_cuts_only_the_answer(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    """Rows of the output layer make each word of the answer certain."""
    prompt = "the cat sat"
    answer = tokenizer.encode("the dog ran")
    _say_after_any(model, tokenizer.encode(prompt, bos=True), answer)
    config = SamplingConfig(temperature=0.0, max_new_tokens=len(answer))
    (echoed,) = text_completion(model, tokenizer, [prompt], config, echo=True)
    assert echoed.text == "the cat sat the dog ran"
    stopping = config.model_copy(update={"stop": (" ran", "cat")})
    (stopped,) = text_completion(model, tokenizer, [prompt], stopping, echo=True)
    assert stopped.text == "the cat sat the dog"


def _say_after_any(model: Transformer, prompt: list[int], answer: list[int]) -> None:
    """Solve for an output layer under which the greedy continuation of the prompt is the answer."""
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([[*prompt, *answer]]))[0, len(prompt) - 1 : -1]
        wanted = torch.full((len(answer), model.config.vocab_size), -9.0)
        wanted[torch.arange(len(answer)), answer] = 9.0
        model.output.weight.copy_(torch.linalg.lstsq(hidden, wanted, driver="gelsd").solution.T)


@pytest.mark.parametrize("prompt", ["", "the"])
def test_the_shortest_prompts_are_echoed(model: Transformer, tokenizer: Tokenizer, prompt: str) -> None:
    (echoed,) = text_completion(model, tokenizer, [prompt], SHORT, echo=True)
    assert echoed.tokens[0] == tokenizer.bos_id
    assert len(echoed.logprobs) >= len(echoed.tokens) and echoed.logprobs[0] == 0.0
    assert echoed.text == tokenizer.decode(echoed.tokens)


def test_echo_under_ntk_scores_the_prompt_at_the_base_of_the_answer(
    config: ModelConfig, tokenizer: Tokenizer
) -> None:
    scaling = RopeScaling(method="ntk", factor=4.0, original_seq_len=16)
    model = Transformer(config.model_copy(update={"rope_scaling": scaling}))
    initialise(model, config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in model.layers:
            for weight in block.parameters():
                weight.mul_(10 if weight.dim() > 1 else 1)
    (echoed,) = text_completion(model, tokenizer, ["the cat sat on a mat and the dog"], SHORT, echo=True)
    tokens = torch.tensor([echoed.tokens])
    cache = KVCache(model.config, 1, tokens.shape[1], model.tok_embeddings.weight)
    with torch.no_grad():
        cached = model(tokens, cache, torch.arange(tokens.shape[1])[None])[0].log_softmax(-1)
        short = model(tokens)[0].log_softmax(-1)
    expected, other = (p[:-1].gather(-1, tokens[0, 1:, None])[:, 0] for p in (cached, short))
    found = torch.tensor(echoed.logprobs[1 : len(echoed.tokens)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - other).abs().max() > 1e-3


def test_without_a_config_an_answer_may_fill_the_context(config: ModelConfig, tokenizer: Tokenizer) -> None:
    long = Transformer(config.model_copy(update={"max_seq_len": 400}))
    initialise(long, config, torch.Generator().manual_seed(0))
    endless = Tokenizer(tokenizer.model)
    endless.eos_id = -1
    (text,) = text_completion(long, endless, ["the cat"])
    assert len(text.tokens) == 400 - len(endless.encode("the cat", bos=True))
    (answer,) = chat_completion(long, endless, [[user("the cat")]])
    assert len(answer.tokens) == 400 - len(encode_prompt([user("the cat")], endless))


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
        finishes = [said.finish for said in stream_said(model, tokenizer, [request])]
        assert finishes[-1] in ("eos", "length") and not any(finishes[:-1])


def test_a_stop_text_is_never_shown_not_even_its_beginning(model: Transformer, tokenizer: Tokenizer) -> None:
    config = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=30)
    whole = "".join(stream_completion(model, tokenizer, Request([1, 5, 9], 1, config)))
    stop = whole[8:14]
    stopped = Request([1, 5, 9], 1, config.model_copy(update={"stop": (stop,)}))
    assert "".join(stream_completion(model, tokenizer, stopped)) == whole[: whole.find(stop)]


def test_until_stop() -> None:
    assert until_stop("seven [/INST] nine [INST]", TAGS) == "seven "
    assert until_stop("seven", TAGS) == "seven"
