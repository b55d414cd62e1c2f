"""Prefect's empty database, kept with the installation: migrations take four seconds in every new home, a copy none.

`python -m deployments.services.prefect_database` makes it; `make` does so when it installs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

NAME = "prefect.db"
EMPTY = Path(sys.prefix) / "share" / "llama2-pipeline" / f"prefect-{version('prefect')}.db"
SETTINGS = {"PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"}
"""Where they are set, the database is another."""


def begin_with_empty(home: Path) -> None:
    """Copy it to a home of Prefect's that has none; without a copy Prefect's server makes its own."""
    if not EMPTY.exists() or (home / NAME).exists() or SETTINGS & os.environ.keys():
        return
    with tempfile.TemporaryDirectory(dir=home) as folder, suppress(FileExistsError):
        os.link(shutil.copy(EMPTY, folder), home / NAME)  # not over one that another process has begun


def make() -> None:
    """Migrate a new database to the installed Prefect's last revision."""
    EMPTY.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=EMPTY.parent) as home:
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        subprocess.run(command, env={**own, "PREFECT_HOME": home}, stdout=subprocess.DEVNULL, check=True)
        (Path(home) / NAME).replace(EMPTY)


if __name__ == "__main__":
    make()
