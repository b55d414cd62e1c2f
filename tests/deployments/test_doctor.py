"""The doctor and the ports."""

import socket
from pathlib import Path

import pytest

from deployments.doctor import checks, port_free
from deployments.services.stack import serve
from llama2_core.errors import ConfigError


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not port_free(port)
        with pytest.raises(ConfigError, match=f"port {port} for MLflow is in use"):
            serve(tmp_path, 14999, port)
    assert not list(tmp_path.iterdir())


def test_this_installation_has_the_pins(tmp_path: Path) -> None:
    found = {check.name: check for check in checks(tmp_path)}
    assert all(found[name].ok for name in ("Python", "prefect", "fastapi", "sqlalchemy", "gensim"))
