"""Faults planted by hand in a row of "<s>[INST] the cat [/INST]" and "sat on a mat </s>"."""

from collections.abc import Callable

import pytest

from llama2_core.chat import Message, assistant, encode_dialog, encode_prompt, user
from llama2_core.data.loss_masks import dialog_faults, pair_faults, prompt_faults, render
from llama2_core.tokenizer import Tokenizer, train_tokenizer

Row = tuple[list[int], list[bool]]


def prompt(tokenizer: Tokenizer, text: str = "the cat") -> list[int]:
    return tokenizer.encode(f"[INST] {text} [/INST]", bos=True)


def answer(tokenizer: Tokenizer, text: str = "sat on a mat") -> list[int]:
    return tokenizer.encode(f"{text} ", eos=True)


def joined(asked: list[int], said: list[int]) -> Row:
    return asked + said, [False] * len(asked) + [True] * len(said)


def flipped(row: Row, place: int) -> Row:
    tokens, learned = row
    return tokens, [flag != (i == place % len(learned)) for i, flag in enumerate(learned)]


def found(row: Row, tokenizer: Tokenizer) -> list[tuple[str, int]]:
    return [(fault.kind, fault.place) for fault in dialog_faults("d", *row, tokenizer, 64)]


@pytest.fixture(scope="module")
def asked(tokenizer: Tokenizer) -> list[int]:
    return prompt(tokenizer)


@pytest.fixture(scope="module")
def said(tokenizer: Tokenizer) -> list[int]:
    return answer(tokenizer)


def test_what_the_template_writes_has_no_fault(tokenizer: Tokenizer) -> None:
    system = Message(role="system", content="on a mat")
    dialog = [system, user("the cat"), assistant("sat on"), user("a dog\nran"), assistant("")]
    assert dialog_faults("d", *encode_dialog(dialog, tokenizer), tokenizer, 200) == []
    assert prompt_faults("p", encode_prompt(dialog[:-1], tokenizer), tokenizer, 248, 48) == []


@pytest.mark.parametrize(
    ("plant", "place"),
    [
        (lambda p, a: (p[1:], a), 0),
        (lambda p, a: (p[:1] + p, a), 0),
        (lambda p, a: (p + a + p[1:], a), 18),
        (lambda p, a: (p + a + p[:1] + p, a), 18),
    ],
    ids=["none", "two", "none in the second turn", "two in the second turn"],
)
def test_bos(
    plant: Callable[..., Row], place: int, asked: list[int], said: list[int], tokenizer: Tokenizer
) -> None:
    assert len(asked + said) == 18
    assert found(joined(*plant(asked, said)), tokenizer) == [("BOS", place)]


def test_a_mask_that_trains_too_much_or_too_little(
    asked: list[int], said: list[int], tokenizer: Tokenizer
) -> None:
    right, begin, end = joined(asked, said), len(asked), len(asked + said)
    assert found(right, tokenizer) == []
    assert found((right[0], [True] * end), tokenizer) == [("trained prompt", 0)]
    for place in range(begin):
        assert found(flipped(right, place), tokenizer) == [("trained prompt", place)]
    for place in range(begin, end - 1):
        assert found(flipped(right, place), tokenizer) == [("untrained answer", place)]
    assert found(flipped(right, -1), tokenizer) == [("untrained stop", end - 1)]
    assert found((right[0], [False] * end), tokenizer) == [("nothing trained", 0)]


def test_tags_of_many_pieces_are_prompt_to_the_last_piece() -> None:
    bare = train_tokenizer(["the cat sat on a mat", "a dog ran to the red house"] * 50, 290)
    right = joined(prompt(bare), answer(bare))
    assert len(prompt(bare)) > 15
    assert found(right, bare) == []
    assert found(flipped(right, len(prompt(bare)) - 1), bare)[0][0] == "trained prompt"


def test_an_earlier_answer_may_be_left_out_whole(
    asked: list[int], said: list[int], tokenizer: Tokenizer
) -> None:
    row = joined(asked + said + asked, said)
    assert found(row, tokenizer) == []
    assert found(flipped(row, len(asked)), tokenizer) == [
        ("untrained stop", len(asked + said) - 1),
        ("untrained answer", len(asked) + 1),
    ]


def test_a_cut_answer(asked: list[int], said: list[int], tokenizer: Tokenizer) -> None:
    assert found(joined(asked, said[:-1]), tokenizer) == [("cut answer", 17)]
    assert found(joined(asked + said[:-1] + asked, said), tokenizer) == [("cut answer", 17)]
    assert found(joined(asked, said), tokenizer) == []


def test_a_tag_in_an_answer(asked: list[int], tokenizer: Tokenizer) -> None:
    row = joined(asked, answer(tokenizer, "sat <<SYS>> on"))
    [fault] = dialog_faults("d", *row, tokenizer, 200)
    assert (fault.kind, fault.row) == ("tag in answer", "d")
    assert fault.sentence == "an answer holds the template's tag <<SYS>>"


def test_a_dialog_longer_than_a_row(asked: list[int], said: list[int], tokenizer: Tokenizer) -> None:
    row = joined(asked, said)
    assert dialog_faults("d", *row, tokenizer, 18) == []
    [fault] = dialog_faults("d", *row, tokenizer, 17)
    assert (fault.kind, fault.place) == ("too long", 17)
    assert fault.sentence == "18 tokens are more than the 17 there is room for"


def test_comparisons(asked: list[int], said: list[int], tokenizer: Tokenizer) -> None:
    chosen, rejected = asked + said, asked + answer(tokenizer, "ran")

    def kinds(chosen: list[int], rejected: list[int], limit: int = 64) -> list[str]:
        return [fault.kind for fault in pair_faults("c", chosen, rejected, tokenizer, limit)]

    assert kinds(chosen, rejected, limit=18) == []
    assert kinds(rejected, chosen, limit=17) == ["too long"]
    assert kinds(chosen, chosen) == ["equal answers"]
    assert kinds(chosen, rejected[:-1]) == ["cut answer"]
    assert kinds(chosen[1:], rejected) == ["BOS"]
    assert kinds(chosen, prompt(tokenizer, "the dog") + said) == ["different prompts"]


def test_comparisons_whose_answers_are_trained(
    asked: list[int], said: list[int], tokenizer: Tokenizer
) -> None:
    chosen, rejected = joined(asked, said), joined(asked, answer(tokenizer, "ran"))

    def kinds(first: list[bool]) -> list[str]:
        masks = first, rejected[1]
        return [f.kind for f in pair_faults("c", chosen[0], rejected[0], tokenizer, 64, masks)]

    begins = len(asked)
    right = [place >= begins for place in range(len(chosen[0]))]
    assert kinds(right) == []
    assert kinds([place >= begins - 1 for place in range(len(right))]) == ["trained prompt"]
    assert kinds([place > begins for place in range(len(right))]) == ["untrained answer"]
    assert kinds([*right[:-1], False]) == ["untrained stop"]


def test_prompts(asked: list[int], said: list[int], tokenizer: Tokenizer) -> None:
    def kinds(tokens: list[int], limit: int = 128) -> list[str]:
        return [fault.kind for fault in prompt_faults("p", tokens, tokenizer, limit, 48)]

    assert kinds(asked, 48 + len(asked)) == []
    assert kinds(asked, 47 + len(asked)) == ["too long"]
    assert kinds(asked + said + asked) == []
    assert kinds(asked + said) == ["open prompt"]
    assert kinds(asked[:-1]) == ["open prompt"]
    assert kinds(asked[:1] + asked) == ["BOS"]
    assert kinds(asked + said[:-1] + asked) == ["cut answer"]


def test_a_row_is_rendered_with_its_spaces_and_control_tokens(
    asked: list[int], said: list[int], tokenizer: Tokenizer
) -> None:
    shown = render(*joined(asked + said, said), tokenizer)
    assert shown == (
        "&lt;s&gt;·[INST]·the·cat·[/INST]·sat·on·a·mat·&lt;/s&gt;<mark>·sat·on·a·mat·&lt;/s&gt;</mark>"
    )


def test_a_rendered_text_is_no_html(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("</mark><script>&\n\u200bé")
    shown = render(tokens, [False] * len(tokens), tokenizer)
    assert shown == "·&lt;/mark&gt;&lt;script&gt;&amp;↵\n\\u200bé"
