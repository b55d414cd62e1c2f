"""Dialogs that a model holds turn by turn under constraints. Llama 2 section 3.3."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llama2_core.chat import Dialog, Message, assistant, encode_prompt, user
from llama2_core.config import SamplingConfig
from llama2_core.generate import Request
from llama2_core.model import Transformer
from llama2_core.rlhf.ghost_attention import Constraint, combine, instruction
from llama2_core.seeding import derive_seed
from llama2_core.tokenizer import Tokenizer
from storage.schemas import DEMONSTRATIONS, read_rows
from tasks.sampling_stages import sample
from tasks.stage import Stage
from tasks.tables import dialog_from_json, read_constraints

Instruct = Callable[[str, Sequence[Message]], Dialog]
"""Puts an instruction into a dialog."""


@dataclass
class Talk:
    """A dialog that is being held: what it is constrained to, what the user will say, what was answered."""

    index: int
    constraints: tuple[Constraint, ...]
    asked: list[str]
    answers: list[str] = field(default_factory=list)

    @property
    def instruction(self) -> str:
        return instruction(self.constraints)

    def messages(self, turns: int) -> Dialog:
        """Return so many turns, the last of them without its answer if there is none yet."""
        said = [[user(text)] for text in self.asked[:turns]]
        for turn, text in zip(said, self.answers, strict=False):
            turn.append(assistant(text))
        return tuple(message for turn in said for message in turn)


def plan_talks(
    stage: Stage, purpose: str, count: int, turns: Callable[[random.Random], int], held_out: bool
) -> list[Talk]:
    """Draw constraints, and what the user says: turns of the parent dialogs, one dialog after another."""
    known = read_constraints(stage.parents["constraints"])
    rows = read_rows(stage.parents["dialogs"] / "demonstrations.parquet", DEMONSTRATIONS)
    plain = [dialog_from_json(row["dialog"]) for row in rows if not row["kind"].startswith("instructed")]
    said = [[message.content for message in dialog if message.role == "user"] for dialog in plain]
    talks = []
    for index in range(count):
        random_ = random.Random(derive_seed(stage.seed, purpose, index))
        wanted = turns(random_)
        drawn = random_.sample(said, min(wanted, len(said)))
        asked = list(dict.fromkeys(text for texts in drawn for text in texts))[:wanted]
        talks.append(Talk(index, combine(known, random_, held_out), asked))
    return talks


def hold(talks: Sequence[Talk], instruct: Instruct, speaker: "Speaker") -> None:
    """Have all talks answered turn by turn; one that the speaker has no room for any longer ends early."""
    for turn in range(max(len(talk.asked) for talk in talks)):
        going_on = [talk for talk in talks if len(talk.answers) == turn < len(talk.asked)]
        dialogs = [instruct(talk.instruction, talk.messages(turn + 1)) for talk in going_on]
        answers = speaker(going_on, dialogs)
        for talk, answer in zip(going_on, answers, strict=True):
            talk.answers += [] if answer is None else [answer]


Speaker = Callable[[Sequence[Talk], Sequence[Dialog]], list[str | None]]
"""Answers dialogs of talks; None where there is no room."""


def speaker(stage: Stage, model: Transformer, tokenizer: Tokenizer, sampling: SamplingConfig) -> Speaker:
    """Return a model as speaker; what it says depends on the talk and its turn, not on the other talks."""
    room = model.config.max_seq_len - sampling.max_new_tokens

    def answer(talks: Sequence[Talk], dialogs: Sequence[Dialog]) -> list[str | None]:
        prompts = [encode_prompt(dialog, tokenizer) for dialog in dialogs]
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
        seeds = [derive_seed(stage.seed, "hold", talk.index, len(talk.answers)) for talk in talks]
        asks = [Request(prompts[place], seeds[place], sampling) for place in fitting]
        said = dict(zip(fitting, sample(stage, model, tokenizer, asks), strict=True))
        return [said.get(place) for place in range(len(talks))]

    return answer
