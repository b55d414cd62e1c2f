"""What would be trained wrongly: faults of encoded dialogs, comparisons and prompts; loss masks made visible.

A turn is a BOS, a prompt that ends in [/INST], an answer and an EOS (llama2_core/chat.py). Where its answer
begins is read from the text that its tokens decode to, never from the mask that is checked. An answer may be
left out of the loss whole (Llama 2 section 3.3 does so to earlier turns), not in part. No torch.
"""

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from llama2_core.chat import E_INST, TAGS
from llama2_core.tokenizer import Tokenizer

Kind = Literal[
    "BOS", "cut answer", "untrained stop", "trained prompt", "untrained answer", "tag in answer",
    "nothing trained", "too long", "equal answers", "different prompts", "open prompt", "template",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row, from which of its tokens on."""

    kind: Kind
    row: str
    place: int
    sentence: str


@dataclass(frozen=True)
class Turn:
    """A prompt and its answer; `place` is the turn's first in the row, `learned` which tokens are trained."""

    place: int
    tokens: Sequence[int]
    learned: Sequence[bool]


Found = tuple[int, str] | None
"""The place in the turn, and what is wrong there."""


def turns(tokens: Sequence[int], learned: Sequence[bool], tokenizer: Tokenizer) -> Iterator[Turn]:
    """Cut a row behind each EOS and before each BOS that follows none."""
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    cuts = [place for place, (a, b) in enumerate(pairwise(tokens), 1) if a == eos or (b == bos and a != bos)]
    for start, end in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        yield Turn(start, tokens[start:end], learned[start:end])


def bos_fault(turn: Turn, tokenizer: Tokenizer) -> Found:
    count = next((i for i, t in enumerate(turn.tokens) if t != tokenizer.bos_id), len(turn.tokens))
    return None if count == 1 else (0, f"a turn begins with {count} BOS, expected 1")


def cut_fault(turn: Turn, tokenizer: Tokenizer) -> Found:
    ended = tokenizer.eos_id in turn.tokens[-1:]
    return None if ended else (len(turn.tokens), "an answer is cut: no EOS ends it")


def stop_fault(turn: Turn, tokenizer: Tokenizer) -> Found:
    if tokenizer.eos_id in turn.tokens[-1:] and any(turn.learned) and not turn.learned[-1]:
        return len(turn.tokens) - 1, "the EOS of an answer is not trained: it teaches no end"
    return None


def prompt_fault(turn: Turn, tokenizer: Tokenizer) -> Found:
    if True not in turn.learned:
        return None
    first = turn.learned.index(True)
    begun = E_INST in tokenizer.decode(turn.tokens[:first])
    return None if begun else (first, f"a prompt is trained: this is before the end of its {E_INST}")


def answer_fault(turn: Turn, tokenizer: Tokenizer) -> Found:
    if True not in turn.learned:
        return None
    first = turn.learned.index(True)
    _, tag, untrained = tokenizer.decode(turn.tokens[:first]).partition(E_INST)
    if untrained:
        return first - 1, f"an answer is trained in part: its beginning {untrained!r} is not"
    if tag and False in turn.learned[first:-1]:
        return turn.learned.index(False, first), "an answer is trained in part: this token is not"
    return None


def tag_fault(turn: Turn, tokenizer: Tokenizer) -> Found:
    _, _, answer = tokenizer.decode(turn.tokens).partition(E_INST)
    tag = next((tag for tag in TAGS if tag in answer), None)
    return (len(turn.tokens) - 1, f"an answer holds the template's tag {tag}") if tag else None


Checks = dict[Kind, Callable[[Turn, Tokenizer], Found]]
FORM: Checks = {"BOS": bos_fault, "cut answer": cut_fault, "tag in answer": tag_fault}
MASK: Checks = {
    "untrained stop": stop_fault,
    "trained prompt": prompt_fault,
    "untrained answer": answer_fault,
}


def dialog_faults(
    name: str, tokens: Sequence[int], learned: Sequence[bool], tokenizer: Tokenizer, row_tokens: int
) -> list[Fault]:
    """Return the faults of a dialog to fine-tune on; one longer than a row, `row_tokens`, is left out."""
    faults = _faults(name, turns(tokens, learned, tokenizer), FORM | MASK, tokenizer)
    if not any(learned):
        faults.append(Fault("nothing trained", name, 0, "no token is trained"))
    return faults + _length_fault(name, len(tokens), row_tokens)


def pair_faults(
    name: str,
    chosen: Sequence[int],
    rejected: Sequence[int],
    tokenizer: Tokenizer,
    limit: int,
    learned: tuple[Sequence[bool], Sequence[bool]] | None = None,
) -> list[Fault]:
    """Return the faults of a comparison; one longer than the context, `limit`, is left out.

    `learned` is which tokens of both are trained, where answers are and not scores.
    """
    faults = []
    for tokens, mask in zip((chosen, rejected), learned or map(nothing, (chosen, rejected)), strict=True):
        faults += _faults(name, turns(tokens, mask, tokenizer), FORM | MASK, tokenizer)
    if chosen == rejected:
        faults.append(Fault("equal answers", name, len(chosen) - 1, "the chosen answer is the rejected one"))
    first, second = (tokenizer.decode(tokens).rpartition(E_INST)[0] for tokens in (chosen, rejected))
    if first != second:
        faults.append(Fault("different prompts", name, 0, "the two answers have different prompts"))
    return faults + _length_fault(name, max(len(chosen), len(rejected)), limit)


def prompt_faults(
    name: str, tokens: Sequence[int], tokenizer: Tokenizer, limit: int, max_new_tokens: int
) -> list[Fault]:
    """Return the faults of a prompt whose answer is sampled in a context of `limit` tokens."""
    *earlier, last = turns(tokens, nothing(tokens), tokenizer)
    faults = _faults(name, earlier, FORM, tokenizer) + _faults(name, [last], {"BOS": bos_fault}, tokenizer)
    if not tokenizer.decode(last.tokens).endswith(E_INST):
        sentence = f"the prompt does not end in {E_INST}, where an answer begins"
        faults.append(Fault("open prompt", name, len(tokens) - 1, sentence))
    return faults + _length_fault(name, len(tokens), limit - max_new_tokens)


def nothing(tokens: Sequence[int]) -> list[bool]:
    """Return the mask that trains no token."""
    return [False] * len(tokens)


def render(tokens: Sequence[int], learned: Sequence[bool], tokenizer: Tokenizer) -> str:
    """Return the row as HTML for `<pre>`, trained runs in `<mark>`; · is a space, `<s>` a BOS, `</s>` an EOS."""
    return "".join(
        f"<mark>{shown}</mark>" if trained else shown
        for trained, places in groupby(range(len(tokens)), key=learned.__getitem__)
        for shown in [html.escape(_visible([tokens[place] for place in places], tokenizer), quote=False)]
    )


def _visible(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    controls = {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}
    before = tokenizer.encode("a")  # decoding drops the space that a text begins with
    shown = ""
    for control, run in groupby(tokens, key=controls.get):
        ids = list(run)
        shown += control * len(ids) if control else tokenizer.decode([*before, *ids])[1:]
    return "".join(map(_visible_character, shown))


def _visible_character(character: str) -> str:
    escape = character if character.isprintable() else character.encode("unicode_escape").decode()
    return {" ": "·", "\n": "↵\n"}.get(character, escape)


def _faults(name: str, row: Iterable[Turn], checks: Checks, tokenizer: Tokenizer) -> list[Fault]:
    return [
        Fault(kind, name, turn.place + found[0], found[1])
        for turn in row
        for kind, check in checks.items()
        if (found := check(turn, tokenizer))
    ]


def _length_fault(name: str, length: int, room: int) -> list[Fault]:
    sentence = f"{length} tokens are more than the {room} there is room for"
    return [Fault("too long", name, room, sentence)] if length > room else []
