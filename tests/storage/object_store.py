"""An S3 server (moto's) with weather: what befalls the requests that write, or read, is up to the test."""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

BUCKET = "store"
WRITES = ("PUT", "POST")
Weather = Callable[[str, int], str]
"""From "write" or "read" and a request's number among them, from 1, to what befalls it; "" for nothing."""


class ObjectStore:
    """Serves one bucket. After every write it looks whether some artifact is visible by half."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.weather: Weather = lambda method, number: ""
        self.victim = 0
        self.halves: list[str] = []
        self.counts = {"write": 0, "read": 0}

    def begin(self, weather: Weather = lambda method, number: "") -> None:
        self.weather, self.counts = weather, {"write": 0, "read": 0}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        kind = "write" if environ["REQUEST_METHOD"] in WRITES else "read"
        with self._lock:
            self.counts[kind] += 1
            number = self.counts[kind]
        fate = self.weather(kind, number)
        if fate in ("half", "killed"):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            half = body[: len(body) // 2]
            if fate == "killed":
                os.kill(self.victim, signal.SIGKILL)
                raise ConnectionResetError
            environ |= {"wsgi.input": io.BytesIO(half), "CONTENT_LENGTH": str(len(half))}
        if fate == "slow":
            time.sleep(0.2)
        if fate == "refused":
            return _unavailable(start_response)
        answer = list(self._inner(environ, start_response if fate != "answer lost" else _ignored))
        self._look()
        if fate == "answer lost":
            return _unavailable(start_response)
        return _cut(b"".join(answer)) if fate == "short" else answer

    def held(self) -> dict[str, bytes]:
        from moto.s3.models import s3_backends

        bucket = s3_backends["123456789012"]["aws"].buckets.get(BUCKET)
        return {name: key.value for name, key in bucket.keys.items()} if bucket else {}

    def _look(self) -> None:
        keys = self.held()
        for name, value in keys.items():
            folder, _, end = name.rpartition("/")
            if end in ("manifest.json", "progress.json"):
                try:
                    wanted = {record["sha256"] for record in json.loads(value)["files"].values()}
                except ValueError:  # cut by the weather: nobody takes it for a manifest
                    continue
                held = {
                    digest
                    for digest in wanted
                    if sha256(keys.get(f"{folder}/files/{digest}", b"")).hexdigest() == digest
                }
                if held != wanted:
                    self.halves.append(name)


@contextmanager
def serving(monkeypatch: Any, secret: str = "test") -> Iterator[ObjectStore]:
    """Serve a bucket, and point this process and its children at it; no driver tries a second time by itself."""
    import s3fs
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = ObjectStore(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(BUCKET)
    store.begin()
    yield store
    server.shutdown()
    s3_backends.reset()
    s3fs.S3FileSystem.clear_instance_cache()


def _unavailable(start_response: Any) -> list[bytes]:
    start_response("503 Service Unavailable", [("Content-Length", "0")])
    return []


def _cut(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionResetError


def _ignored(*_: Any) -> None:
    pass
