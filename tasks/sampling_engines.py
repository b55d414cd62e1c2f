"""Who answers the prompts of rejection sampling: our own sampler, or a server that has our export loaded.

A server's answers are kept one by one: asked again is, after a kill or a failure, only what is not on the disk.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

from llama2_core.chat import TAGS
from llama2_core.completion import until_stop
from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError
from llama2_core.generate import Request
from llama2_core.training import distributed
from llama2_core.training.checkpoint import load_config, load_policy
from storage.metrics import MetricLog, read_metrics
from tasks.chat_server import ChatServer, ServerFailed
from tasks.sampling_recipe import BuiltInRecipe, ServerRecipe
from tasks.sampling_stages import sample
from tasks.stage import Stage
from tasks.tables import Prompt


@dataclass(frozen=True)
class Ask:
    """One sample to be drawn."""

    prompt: Prompt
    sample: int
    """Which of the prompt's K."""
    seed: int
    config: SamplingConfig


class Engine(Protocol):
    """What draws samples."""

    def draw(self, asks: Sequence[Ask]) -> list[str]:
        """Return one answer for each, as text up to a tag of the template, without spaces around it."""
        ...


class BuiltIn:
    """Our own sampler."""

    def __init__(self, stage: Stage, prompts: Sequence[Prompt]) -> None:
        """Raises DataError for a prompt that leaves no room for an answer."""
        self._stage = stage
        model, self._tokenizer = load_policy(stage.parents["chat"])
        refuse_too_long(prompts, model.config.max_seq_len)
        self._model = model.to(distributed.device())

    def draw(self, asks: Sequence[Ask]) -> list[str]:
        requests = [Request(ask.prompt.tokens, ask.seed, ask.config) for ask in asks]
        return sample(self._stage, self._model, self._tokenizer, requests)


class Served:
    """A server; several requests at a time, each answer on the disk before it counts."""

    def __init__(self, stage: Stage, recipe: ServerRecipe, prompts: Sequence[Prompt], samples: int) -> None:
        """Raises DataError for a prompt that leaves no room for an answer, ServerFailed without such a server."""
        self._stage = stage
        self._limit = (
            load_config(stage.parents["chat"]).max_seq_len if "chat" in stage.parents else sys.maxsize
        )
        refuse_too_long(prompts, self._limit)
        stage.checkpoints.mkdir(exist_ok=True)
        path = stage.checkpoints / "answers.jsonl"
        self._log, self._lock = MetricLog(path, sys.maxsize), Lock()
        self._answers = {(row["prompt"], row["sample"]): row["answer"] for row in read_metrics(path)}
        server = ChatServer.parse(recipe.server)
        self._server = replace(server, answer_seconds=stage.execution.server_seconds)
        if len(self._answers) < len(prompts) * samples:
            self._server = self._server.introduced(prompts[0].dialog)

    def draw(self, asks: Sequence[Ask]) -> list[str]:
        """Raises ServerFailed naming server and prompt; what was answered till then is kept."""
        missing = [ask for ask in asks if (ask.prompt.id, ask.sample) not in self._answers]
        with ThreadPoolExecutor(self._stage.execution.server_requests) as threads:
            asked = [threads.submit(self._ask, ask) for ask in missing]
            wait(asked, return_when=FIRST_EXCEPTION)
            threads.shutdown(cancel_futures=True)
        for future in asked:
            if not future.cancelled():
                future.result()
        return [self._answers[ask.prompt.id, ask.sample] for ask in asks]

    def _ask(self, ask: Ask) -> None:
        room = self._limit - len(ask.prompt.tokens)
        longest = min(ask.config.max_new_tokens, room)
        config = ask.config.model_copy(update={"max_new_tokens": longest, "stop": TAGS})
        try:
            answer = self._server.answer(ask.prompt.dialog, config, ask.seed)
        except ServerFailed as error:
            raise ServerFailed(f"sample {ask.sample} of prompt {ask.prompt.id}: {error}") from error
        answer = until_stop(answer, TAGS).strip()
        with self._lock:
            row = {"prompt": ask.prompt.id, "sample": ask.sample, "answer": answer}
            self._log.append({"step": len(self._answers), **row})
            self._answers[ask.prompt.id, ask.sample] = answer


def engine_of(
    stage: Stage, recipe: BuiltInRecipe | ServerRecipe, prompts: Sequence[Prompt], samples: int
) -> Engine:
    """Return what draws so many samples a prompt, ready to. A server that has no model of ours takes any length.

    Raises DataError for a prompt that leaves no room for an answer, and as `Served`.
    """
    match recipe:
        case BuiltInRecipe():
            return BuiltIn(stage, prompts)
        case ServerRecipe():
            return Served(stage, recipe, prompts, samples)


def refuse_too_long(prompts: Sequence[Prompt], limit: int) -> None:
    for prompt in prompts:
        if len(prompt.tokens) >= limit:
            raise DataError(
                f"prompt {prompt.id} has {len(prompt.tokens)} tokens; 1 to {limit - 1} fit this model"
            )
