"""Models of this machine that answer dialogs: a process of its own, for it keeps a core busy.

Reads a JSON line a question from standard input, of questions that wait those for one model together, and writes
one for each piece of an answer. `deployments/services/speakers.py` is the other end.
"""

import json
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from llama2_core.chat import TAGS, Message, encode_prompt
from llama2_core.completion import stream_said
from llama2_core.config import SamplingConfig
from llama2_core.errors import DataError, Llama2Error
from llama2_core.generate import Request
from llama2_core.interop.convert import load

MODELS_KEPT = 4
SHORTEST_ANSWER = 8
"""Tokens that a dialog must leave room for."""


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    said = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = sys.stderr  # of libraries
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_read, args=(asked,), daemon=True).start()
    while True:
        questions = [asked.get()]
        while not asked.empty():
            questions.append(asked.get())
        for path in dict.fromkeys(question["path"] for question in questions):
            for piece in _answers(path, [question for question in questions if question["path"] == path]):
                print(json.dumps(piece), file=said)


def _read(asked: "SimpleQueue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)  # the asker is gone


@lru_cache(MODELS_KEPT)
def _load(path: str) -> Any:
    return load(Path(path))


def _answers(path: str, questions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the pieces of every answer; a question that cannot be answered gets an error."""
    fit, requests = [], []
    try:
        model, tokenizer = _load(path)
        for question in questions:
            dialog = [Message.model_validate(message) for message in question["dialog"]]
            try:
                tokens = encode_prompt(dialog, tokenizer)
                if len(tokens) > model.config.max_seq_len - SHORTEST_ANSWER:
                    raise DataError(
                        f"the dialog has {len(tokens)} tokens and the model reads {model.config.max_seq_len}: "
                        "say it in fewer words, or begin a new dialog"
                    )
            except DataError as error:
                yield {"id": question["id"], "error": str(error)}
                continue
            config = SamplingConfig.model_validate(question["config"] | {"stop": TAGS})
            requests.append(Request(tokens, question["seed"], config))
            fit.append(question["id"])
        for index, text, finish in stream_said(model, tokenizer, requests):
            yield {"id": fit[index], "text": text, "finish": finish}
    except (Llama2Error, OSError) as error:
        for question in questions:
            yield {"id": question["id"], "error": str(error)}


if __name__ == "__main__":
    main()
