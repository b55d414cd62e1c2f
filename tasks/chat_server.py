"""A model behind a server that speaks OpenAI's chat API: vLLM, llama.cpp, transformers, MLflow."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from llama2_core.chat import Message
from llama2_core.config import SamplingConfig
from llama2_core.errors import Llama2Error

CONNECT_SECONDS, READ_SECONDS = 5, 300
PAUSES_SECONDS = (1.0, 3.0, 10.0)
"""Before an answer is asked for again."""


class ServerFailed(Llama2Error):
    """The server cannot be reached, refuses, or answers something else."""


@dataclass(frozen=True)
class ChatServer:
    """Where the server is, and which of its models is meant."""

    url: str
    """Up to and with `/v1`."""
    model: str

    @classmethod
    def parse(cls, text: str) -> "ChatServer":
        """Read `http://host:port/v1#model`."""
        url, _, model = text.partition("#")
        if not model:
            raise ServerFailed(f"{text}: add the model's name as the server knows it: {url}#NAME")
        return cls(url.rstrip("/"), model)

    def answer(self, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> str:
        """Return the answer to a dialog. Raises ServerFailed when it has failed some times in a row."""
        for pause in PAUSES_SECONDS:
            try:
                return "".join(self.stream(dialog, config, seed))
            except ServerFailed:
                time.sleep(pause)
        return "".join(self.stream(dialog, config, seed))

    def stream(self, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> Iterator[str]:
        """Yield an answer piece by piece. Raises ServerFailed with the server's own words."""
        asked = {
            "model": self.model,
            "messages": [message.model_dump() for message in dialog],
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_new_tokens,
            "seed": seed % 2**31,
            "stream": True,
            **({"stop": list(config.stop)} if config.stop else {}),
        }
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        try:
            with httpx.stream("POST", f"{self.url}/chat/completions", json=asked, timeout=timeout) as reply:
                if reply.is_error:
                    raise ServerFailed(
                        f"{self.url} answers {reply.status_code}: {reply.read().decode(errors='replace')[:300]}"
                    )
                for line in reply.iter_lines():
                    if line.startswith("data:") and (found := line[5:].strip()) != "[DONE]":
                        yield _piece(json.loads(found))
        except (httpx.HTTPError, ValueError) as error:
            raise ServerFailed(f"{self.url} does not answer as a chat server does: {error!r}") from error


def _piece(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
