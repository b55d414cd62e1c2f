"""The environment of every process we start: local, quiet, and silent towards the outside."""

import os
from pathlib import Path

from deployments.services.prefect_database import begin_with_empty


def prepare(home: Path) -> None:
    """Point Prefect at `home`, switch telemetry off; what the user has set stays. Call before importing prefect."""
    defaults = {
        "PREFECT_HOME": str((home / "prefect").absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # to its UI, not over our own lines
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "HF_HUB_OFFLINE": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "TOKENIZERS_PARALLELISM": "false",
    }
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    begin_with_empty(Path(os.environ["PREFECT_HOME"]))
