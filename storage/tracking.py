"""The only file that speaks to MLflow: a run a pipeline, a child run a stage. No fluent global state."""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from storage.manifest import digest_of

BATCH = 1000
"""MLflow's limit of metrics a call."""
MOVE = "llama2.move"
"""Tag of a registered model while its aliases are moved: where to, as JSON."""


class Tracker:
    """Writes runs of one experiment. `uri` is a database or a server; artifacts go below `artifact_root`."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path) -> None:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        for name in ("alembic", "mlflow"):  # a screen of migrations at the first start helps nobody
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        location = artifact_root.absolute().as_uri()
        self.experiment_id: str = (
            found.experiment_id if found else self._client.create_experiment(experiment, location)
        )

    def start(self, name: str, key: str, tags: Mapping[str, str], parent: str = "") -> str:
        """Return a running run: an unfinished one of the same key and parent, continued, or a new one."""
        filters = f"tags.`llama2.key` = '{key}' and attributes.status != 'FINISHED'"
        if parent:
            filters += f" and tags.`mlflow.parentRunId` = '{parent}'"
        found = self._client.search_runs([self.experiment_id], filters, max_results=1)
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        all_tags = {"llama2.key": key, "mlflow.source.name": "llama2", **tags}
        if parent:
            all_tags["mlflow.parentRunId"] = parent
        return self._client.create_run(self.experiment_id, run_name=name, tags=all_tags).info.run_id

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log nested parameters under dotted names, those not logged yet."""
        known = self._client.get_run(run_id).data.params
        flat = [Param(name, value) for name, value in flatten(params) if name not in known]
        for start in range(0, len(flat), 100):
            self._client.log_batch(run_id, params=flat[start : start + 100])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        self.log_curve(run_id, [{"step": 0, **metrics}])

    def log_curve(self, run_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log rows of numbers with a "step"; what is no finite number is left out."""
        now = get_current_time_millis()
        metrics = [
            Metric(metric_name(name), float(value), now, int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def last_step(self, run_id: str, metric: str) -> int:
        """Return the highest step of a metric logged so far, 0 when there is none."""
        return max((point.step for point in self._client.get_metric_history(run_id, metric)), default=0)

    def log_file(self, run_id: str, path: Path, folder: str = "") -> None:
        self._client.log_artifact(run_id, str(path), folder or None)

    def log_table(self, run_id: str, name: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
        """Log a table, which MLflow shows as one."""
        by_column = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
        self._client.log_table(run_id, by_column, name)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def register(self, name: str, code: Path, model: Path, tags: Mapping[str, str], note: str = "") -> str:
        """Log a model directory with the pyfunc code that serves it; return its new version, which has no alias yet."""
        from mlflow.pyfunc import save_model  # noqa: PLC0415  (a second)

        run_id = self.start(f"register {name}", digest_of("register", 1, {"name": name, **tags}, {}), tags)
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "chat"
            packed = {"model": str(model)}
            save_model(folder, python_model=str(code), artifacts=packed, pip_requirements=["llama2-pipeline"])
            self._client.log_artifacts(run_id, str(folder), "chat")
        with suppress(MlflowException):  # it is there already
            self._client.create_registered_model(name)
        made = self._client.create_model_version(
            name, f"runs:/{run_id}/chat", run_id, dict(tags), description=note
        )
        self.finish(run_id)
        return str(made.version)

    def versions(self, name: str) -> dict[str, dict[str, str]]:
        """Return version -> tags of a registered model."""
        found = self._client.search_model_versions(f"name = '{name}'")
        return {str(version.version): dict(version.tags) for version in found}

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias -> version, nothing where no such model is registered; what `move` began is finished first."""
        found = self._client.search_registered_models(f"name = '{name}'")
        if not found:
            return {}
        if to := json.loads(found[0].tags.get(MOVE, "{}")):
            self._move(name, to)
            return self.aliases(name)
        return {alias: str(version) for alias, version in found[0].aliases.items()}

    def move(self, name: str, to: Mapping[str, str]) -> None:
        """Give aliases to versions, "" takes one away: all of them, for a move that is cut is finished by `aliases`."""
        self._client.set_registered_model_tag(name, MOVE, json.dumps(to))
        self._move(name, to)

    def _move(self, name: str, to: Mapping[str, str]) -> None:
        for alias, version in to.items():
            if version:
                self._client.set_registered_model_alias(name, alias, version)
            else:
                self._client.delete_registered_model_alias(name, alias)
        self._client.delete_registered_model_tag(name, MOVE)

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(name, version, key, value)

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status)

    def children(self, parent: str, status: str) -> dict[str, dict[str, str]]:
        """Return run -> tags of the runs below a parent whose status is so: "= 'RUNNING'", "!= 'FINISHED'"."""
        filters = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status {status}"
        found = self._client.search_runs([self.experiment_id], filters)
        return {run.info.run_id: dict(run.data.tags) for run in found}

    def newest(self, key: str) -> str:
        """Return the newest run of a key, "" when there is none."""
        found = self._client.search_runs([self.experiment_id], f"tags.`llama2.key` = '{key}'", max_results=1)
        return found[0].info.run_id if found else ""

    def registered(self) -> dict[str, str]:
        """Return "models:/name@alias" -> the model directory that was registered, as far as it is known."""
        found = {}
        for model in self._client.search_registered_models():
            for alias, version in model.aliases.items():
                tags = self._client.get_model_version(model.name, version).tags
                if "llama2.source" in tags:
                    found[f"models:/{model.name}@{alias}"] = tags["llama2.source"]
        return found

    def runs(self) -> list[Any]:
        """Every run of the experiment, newest first."""
        return list(self._client.search_runs([self.experiment_id]))

    def run_path(self, run_id: str) -> str:
        """The run's page in MLflow's UI, after the address."""
        return f"/#/experiments/{self.experiment_id}/runs/{run_id}"


def metric_name(name: str) -> str:
    """Return the name with what MLflow refuses replaced: characters, and paths that are not in their shortest form."""
    return normpath(re.sub(r"[^\w./ :-]", "_", name)).lstrip("./")


def flatten(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested parameters as (dotted name, text) pairs, the text cut at MLflow's 6,000 characters."""
    flat: list[tuple[str, str]] = []
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat += flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", str(value)[:6000]))
    return flat
