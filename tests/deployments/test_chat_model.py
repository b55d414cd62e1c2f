"""A chat model in MLflow's registry, served by MLflow."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.types.llm import ChatCompletionResponse, ChatParams

from llama2_core.chat import TAGS
from llama2_core.config import SamplingConfig
from llama2_core.model import Transformer
from llama2_core.tokenizer import Tokenizer
from llama2_core.training.checkpoint import save_model
from tasks.chat_model import _config
from tasks.registry import register, versions
from tasks.runtime import Runtime
from tasks.stage_run import tracker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registered(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> str:
    """The tracking URI of a registry with one model, two versions."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    save_model(tmp_path / "model", model, tokenizer)
    runtime = Runtime(home=tmp_path)
    assert [register(tmp_path / "model", "champion", runtime) for _ in range(2)] == ["1", "2"]
    assert {alias: version.number for alias, version in versions(runtime).items()} == {
        "champion": "2",
        "previous": "1",
    }
    assert tracker(runtime).registered()["models:/llama2-chat@champion"] == str(tmp_path / "model")
    return uri


def test_the_registered_model_answers(registered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered)
    model = mlflow.pyfunc.load_model("models:/llama2-chat@champion")
    asked = {
        "messages": [{"role": "user", "content": "the cat"}],
        "max_tokens": 5,
        "temperature": 0.0,
        "n": 2,
    }
    answer = model.predict(asked)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(texts) == 2
    assert texts[0] == texts[1], "greedy"
    assert answer["usage"]["completion_tokens"] <= 10
    streamed: list[Any] = list(model.predict_stream(asked))
    chunks = [chunk["choices"][0] for chunk in streamed]
    assert "".join(chunk["delta"]["content"] for chunk in chunks).strip() == texts[0]
    assert not any(chunk.get("finish_reason") for chunk in chunks[:-1])
    assert chunks[-1]["finish_reason"] == answer["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"temperature": 0.6, "top_p": 0.9}),
        ({"temperature": 1.0, "top_p": 1.0}, {"temperature": 1.0, "top_p": 1.0}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"stop": ["", "x"]}, {"stop": (*TAGS, "x")}),
    ],
)
def test_what_a_client_leaves_out_is_the_reference_codes(
    registered: str, monkeypatch: pytest.MonkeyPatch, said: dict, expected: dict
) -> None:
    """From the body of a request through MLflow's server and its checks to our settings."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered)
    model = mlflow.pyfunc.load_model("models:/llama2-chat@champion")
    served, seen = model._model_impl.chat_model, []
    predict = served.predict

    def watched(context: object, messages: list, params: ChatParams) -> ChatCompletionResponse:
        seen.append(_config(params))
        return predict(context, messages, params)

    monkeypatch.setattr(served, "predict", watched)
    messages = [{"role": "user", "content": "the cat"}]
    model.predict(json.loads(json.dumps({"messages": messages, **said})))
    assert seen[0].model_dump() == {**SamplingConfig(stop=TAGS).model_dump(), **expected}


@pytest.mark.slow
def test_mlflow_serves_it_over_http(registered: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = Path(sys.executable).parent  # MLflow starts uvicorn by name
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": registered,
        "PYTHONPATH": str(ROOT),
    }
    words = ["-m", "models:/llama2-chat@champion", "--env-manager", "local", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [programs / "mlflow", "models", "serve", *words],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        answer = _ask(f"http://127.0.0.1:{port}/invocations", server, tmp_path / "server.log")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert answer["choices"][0]["message"]["role"] == "assistant"


def _ask(address: str, server: subprocess.Popen, log: Path) -> dict:
    body = json.dumps({"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 4}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer in a minute: {log.read_text()}")
