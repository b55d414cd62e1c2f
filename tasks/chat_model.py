"""The chat model as MLflow serves it: `mlflow models serve` runs this file, and speaks OpenAI's chat format."""

import random
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import ChatModel
from mlflow.types.llm import (
    ChatChoice,
    ChatChoiceDelta,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionResponse,
    ChatMessage,
    ChatParams,
    TokenUsageStats,
)

from llama2_core.chat import TAGS, Message, encode_prompt
from llama2_core.completion import chat_completion, stream_said
from llama2_core.config import SamplingConfig
from llama2_core.generate import Finish, Request
from llama2_core.interop.convert import load


class Llama2Chat(ChatModel):
    """Answers dialogs with the model directory that it was logged with."""

    def load_context(self, context: Any) -> None:
        self.model, self.tokenizer = load(Path(context.artifacts["model"]))

    def predict(
        self, context: Any, messages: list[ChatMessage], params: ChatParams | None = None
    ) -> ChatCompletionResponse:
        params = params or ChatParams()
        dialog, config = _dialog(messages), _config(params)
        answers = chat_completion(
            self.model, self.tokenizer, [dialog] * (params.n or 1), config, random.getrandbits(62)
        )
        prompt = len(encode_prompt(dialog, self.tokenizer))
        completion = sum(len(answer.tokens) for answer in answers)
        return ChatCompletionResponse(
            id=str(uuid.uuid4()),
            created=int(time.time()),
            model="llama2-chat",
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatMessage(role="assistant", content=answer.text.strip()),
                    finish_reason=_reason(answer.finish),
                )
                for index, answer in enumerate(answers)
            ],
            usage=TokenUsageStats(prompt, completion, prompt + completion),
        )

    def predict_stream(
        self, context: Any, messages: list[ChatMessage], params: ChatParams | None = None
    ) -> Generator[ChatCompletionChunk]:
        prompt = encode_prompt(_dialog(messages), self.tokenizer)
        request = Request(prompt, random.getrandbits(62), _config(params or ChatParams()))
        for _, text, finish in stream_said(self.model, self.tokenizer, [request]):
            delta = ChatChoiceDelta(role="assistant", content=text)
            choice = ChatChunkChoice(delta, finish_reason=_reason(finish) if finish else None)
            yield ChatCompletionChunk(choices=[choice])


def _dialog(messages: list[ChatMessage]) -> list[Message]:
    return [Message.model_validate({"role": m.role, "content": m.content}) for m in messages]


def _config(params: ChatParams) -> SamplingConfig:
    """Return the request's settings; what it leaves out is SamplingConfig's, so the reference code's.

    MLflow fills in a temperature of 1.0: it was left out when the number is that very object.
    """
    left_out = params.temperature is ChatParams.temperature
    given = {
        "temperature": None if left_out else params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "max_new_tokens": params.max_tokens,
    }
    said = {name: value for name, value in given.items() if value is not None}
    return SamplingConfig.model_validate({**said, "stop": (*TAGS, *filter(None, params.stop or ()))})


def _reason(finish: Finish) -> str:
    """Return OpenAI's word."""
    return "length" if finish == "length" else "stop"


set_model(Llama2Chat())
