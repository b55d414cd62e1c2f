"""A model behind a server that speaks OpenAI's chat API: vLLM, llama.cpp, transformers, MLflow."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import httpx
from pydantic import BaseModel, Field

from llama2_core.chat import Message
from llama2_core.config import SamplingConfig
from llama2_core.errors import Llama2Error

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 300.0
PAUSES_SECONDS = (1.0, 3.0, 10.0, 30.0, 60.0)
"""Before an answer is asked for again."""
WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
"""Of the statuses below 500."""


class ServerFailed(Llama2Error):
    """The server cannot be reached, refuses, or answers something else."""


class ServerRefused(ServerFailed):
    """The server says that the question is at fault: asking again is of no use."""


class _Said(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


@dataclass(frozen=True)
class ChatServer:
    """Where the server is, and which of its models is meant."""

    url: str
    """Up to and with `/v1`."""
    model: str
    answer_seconds: float = ANSWER_SECONDS
    """The most that one answer may take."""
    extended: bool = False
    """Whether it takes what OpenAI's API lacks: all that `SamplingConfig` says."""

    @classmethod
    def parse(cls, text: str) -> "ChatServer":
        """Read `http://host:port/v1#model`."""
        url, _, model = text.partition("#")
        if not model:
            raise ServerFailed(f"{text}: add the model's name as the server knows it: {url}#NAME")
        return cls(url.rstrip("/"), model)

    def introduced(self, dialog: Sequence[Message]) -> "ChatServer":
        """Return the server once it has answered with a token, extended if it takes that.

        Raises ServerFailed with its own words, and the models that it says it has.
        """
        short, extended = SamplingConfig(max_new_tokens=1), replace(self, extended=True)
        try:
            try:
                extended.answer(dialog, short, 0)
                return extended
            except ServerRefused:
                self.answer(dialog, short, 0)
                return self
        except ServerFailed as error:
            raise ServerFailed(
                f"{error}\n{self.url} lists the models {self._models() or '(none)'}"
            ) from error

    def answer(self, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> str:
        """Return the answer to a dialog. Raises ServerFailed when it has failed some times in a row."""
        for pause in PAUSES_SECONDS:
            try:
                return self.ask(dialog, config, seed)
            except ServerRefused:
                raise
            except ServerFailed:
                time.sleep(pause)
        return self.ask(dialog, config, seed)

    def ask(self, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> str:
        """Return the answer to a dialog, asked for once, whole. Raises ServerFailed."""
        asked = self._question(dialog, config, seed)
        latest = time.monotonic() + self.answer_seconds
        body = b""
        try:
            with self._client.stream("POST", f"{self.url}/chat/completions", json=asked) as reply:
                for piece in reply.iter_bytes():
                    body += piece
                    if time.monotonic() > latest:  # httpx' own limit is for each piece
                        raise ServerFailed(
                            f"{self.url} took more than {self.answer_seconds:g} s for an answer"
                        )
            _refuse_errors(self.url, reply.status_code, body)
            [choice, *_] = _Reply.model_validate_json(body).choices
        except (httpx.HTTPError, ValueError) as error:
            raise ServerFailed(f"{self.url} does not answer as a chat server does: {error!r}") from error
        return choice.message.content or ""

    def stream(self, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> Iterator[str]:
        """Yield an answer piece by piece. Raises ServerFailed with the server's own words."""
        asked = {**self._question(dialog, config, seed), "stream": True}
        ended = False
        try:
            with httpx.stream(
                "POST", f"{self.url}/chat/completions", json=asked, timeout=self._timeout
            ) as reply:
                if reply.is_error:
                    _refuse_errors(self.url, reply.status_code, reply.read())
                for line in reply.iter_lines():
                    if line.startswith("data:"):
                        found = line[5:].strip()
                        piece, last = ("", True) if found == "[DONE]" else _piece(json.loads(found))
                        ended = ended or last
                        yield piece
        except (httpx.HTTPError, ValueError) as error:
            raise ServerFailed(f"{self.url} does not answer as a chat server does: {error!r}") from error
        if not ended:
            raise ServerFailed(f"{self.url} broke off in the middle of an answer")

    def close(self) -> None:
        """Close the connections that are kept between answers."""
        self._client.close()

    @property
    def _timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.answer_seconds, connect=CONNECT_SECONDS)

    @cached_property
    def _client(self) -> httpx.Client:
        """Connections that stay open, for as many threads as ask: a new client takes longer than a short answer."""
        return httpx.Client(timeout=self._timeout, limits=httpx.Limits(max_connections=None))

    def _models(self) -> str:
        try:
            told = httpx.get(f"{self.url}/models", timeout=CONNECT_SECONDS).json()["data"]
            return ", ".join(str(model["id"]) for model in told)
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return ""

    def _question(self, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> dict[str, Any]:
        asked = {
            "model": self.model,
            "messages": [message.model_dump() for message in dialog],
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_new_tokens,
            "seed": seed % 2**31,
            **({"stop": list(config.stop)} if config.stop else {}),
        }
        if self.extended:  # llama.cpp would else take the 40 likeliest; vLLM what the model's files say
            penalty = config.repetition_penalty
            asked |= {"top_k": config.top_k or -1, "min_p": 0.0}
            asked |= {"repetition_penalty": penalty, "repeat_penalty": penalty}
        return asked


def _refuse_errors(url: str, status: int, body: bytes) -> None:
    if status >= 400:
        refused = status < 500 and status not in WORTH_ANOTHER_TRY
        told = f"{url} answers {status}: {body.decode(errors='replace')[:300]}"
        raise ServerRefused(told) if refused else ServerFailed(told)


def _piece(chunk: dict[str, Any]) -> tuple[str, bool]:
    """Return the text of a piece, and whether it is the last."""
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or "", bool(choices[0].get("finish_reason"))
