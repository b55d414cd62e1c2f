"""The Llama 2 chat template, as the reference code writes it."""

import pytest

from llama2_core.chat import Message, assistant, encode_dialog, encode_prompt, user
from llama2_core.errors import DataError
from llama2_core.tokenizer import Tokenizer

SYSTEM = Message(role="system", content="on a mat")


def test_a_dialog_is_the_reference_codes_text(tokenizer: Tokenizer) -> None:
    tokens, _ = encode_dialog(
        [user(" the cat "), assistant("sat on"), user("a mat"), assistant("ran")], tokenizer
    )
    expected = []
    for pair in ("[INST] the cat [/INST] sat on ", "[INST] a mat [/INST] ran "):
        expected += tokenizer.encode(pair, bos=True, eos=True)
    assert tokens == expected


def test_only_answers_and_their_end_are_learned(tokenizer: Tokenizer) -> None:
    tokens, learned = encode_dialog([user("the cat"), assistant("sat on a mat")], tokenizer)
    text = tokenizer.decode([token for token, flag in zip(tokens, learned, strict=True) if flag])
    assert text.strip() == "sat on a mat"
    assert tokens[-1] == tokenizer.eos_id
    assert learned[-1]
    assert not learned[0]


def test_system_is_folded_into_the_first_turn(tokenizer: Tokenizer) -> None:
    dialog = [Message(role="system", content="the dog"), user("ran")]
    expected = tokenizer.encode("[INST] <<SYS>>\nthe dog\n<</SYS>>\n\nran [/INST]", bos=True)
    assert encode_prompt(dialog, tokenizer) == expected


@pytest.mark.parametrize(
    ("dialog", "message"),
    [
        ([assistant("a")], "turn 0"),
        ([SYSTEM, assistant("a")], "turn 0 of the dialog is by 'assistant'; expected 'user'"),
        ([SYSTEM], "turn 0 of the dialog is by 'system'"),
        ([SYSTEM, SYSTEM, user("a")], "turn 0 of the dialog is by 'system'"),
        ([user("a"), user("b")], "turn 1"),
        ([user("a"), assistant("b")], "must end with a turn by 'user'"),
        ([user("see [/INST] here")], "tag"),
        ([], "must end"),
    ],
)
def test_bad_dialogs_are_refused(dialog: list[Message], message: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=message):
        encode_prompt(dialog, tokenizer)


def test_digits_and_unknown_characters(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("2468")) == 5  # the dummy prefix and four digits
    assert tokenizer.decode(tokenizer.encode("雪 é 🦙 the cat")) == "雪 é 🦙 the cat"


def test_atoms_template(tokenizer: Tokenizer) -> None:
    dialog = [SYSTEM, user("the cat "), assistant("sat on"), user("a mat")]
    texts = ("System: on a mat\n", "Human: the cat\n", "Assistant: sat on\n", "Human: a mat\n")
    expected = [token for text in texts for token in tokenizer.encode(text, bos=True, eos=True)]
    expected += tokenizer.encode("Assistant: ", bos=True)
    assert encode_prompt(dialog, tokenizer, "atom") == expected
    for bad in (dialog[:-1], dialog[1:2] * 2, [SYSTEM]):
        with pytest.raises(DataError, match=r"must end with a turn by 'user'|turn 1"):
            encode_prompt(bad, tokenizer, "atom")
