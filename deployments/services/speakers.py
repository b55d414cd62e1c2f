"""Answers of models as they come: of models of this machine, or behind a server with OpenAI's API."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import IO, Any

from llama2_core.chat import Message
from llama2_core.config import SamplingConfig
from tasks.chat_server import ChatServer, ServerFailed

MOST_OPEN = 256
"""Answers that wait or are being said; more are refused."""


@dataclass
class Answer:
    """What a model has said so far."""

    text: str = ""
    finish: str | None = None
    error: str = ""

    @property
    def done(self) -> bool:
        return bool(self.finish or self.error)


class Speakers:
    """Models by name: a path each, or `http://host:port/v1#model`."""

    def __init__(self, models: dict[str, str], threads: int = 1) -> None:
        self.models, self.threads = models, threads
        self._open: dict[int, Answer] = {}
        self._lock, self._asked = Lock(), 0
        self._process: subprocess.Popen[str] | None = None
        self._remote = ThreadPoolExecutor(16, "speaker")

    def ask(self, model: str, dialog: Sequence[Message], config: SamplingConfig, seed: int) -> Answer:
        """Ask for an answer to a dialog; it grows while the model speaks."""
        answer, place = Answer(), self.models[model]
        if len(self._open) >= MOST_OPEN:
            answer.error = "too many answers are being written: try again in a moment"
        elif place.startswith(("http://", "https://")):
            self._remote.submit(_answer, ChatServer.parse(place), dialog, config, seed, answer)
        else:
            messages = [message.model_dump() for message in dialog]
            question = {"path": place, "dialog": messages, "config": config.model_dump(), "seed": seed}
            self._send(question, answer)
        return answer

    def close(self) -> None:
        self._remote.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._process:
                self._process.kill()
                self._process.wait()

    def _send(self, question: dict[str, Any], answer: Answer) -> None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            self._asked += 1
            self._open[self._asked] = answer
            assert self._process.stdin
            with suppress(BrokenPipeError):  # it has ended: its reader says so
                self._process.stdin.write(json.dumps({"id": self._asked, **question}) + "\n")
                self._process.stdin.flush()

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.services.speaker", str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
        )
        assert process.stdout
        Thread(target=self._listen, args=(process, process.stdout), daemon=True).start()
        return process

    def _listen(self, process: "subprocess.Popen[str]", said: IO[str]) -> None:
        for line in said:
            piece = json.loads(line)
            answer = self._open[piece["id"]]
            answer.text += piece.get("text", "")
            answer.error, answer.finish = piece.get("error", ""), piece.get("finish")
            if answer.done:
                del self._open[piece["id"]]
        with self._lock:  # it ended, and takes with it what it had not said
            for answer in self._open.values():
                answer.error = "the model's process has ended: ask again"
            self._open.clear()


def _answer(
    server: ChatServer, dialog: Sequence[Message], config: SamplingConfig, seed: int, answer: Answer
) -> None:
    try:
        for text in server.stream(dialog, config, seed):
            answer.text += text
        answer.finish = "stop"
    except ServerFailed as error:
        answer.error = str(error)
