"""The only file that speaks to MLflow: a run a pipeline, a child run a stage. No fluent global state."""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from mlflow.utils.time import get_current_time_millis

from storage.errors import Unreachable
from storage.manifest import digest_of
from storage.mlflow_views import views

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
        for name, value in ({"mlflow.experimentKind": "custom_model_development"} | views()).items():
            if not found or name not in found.tags:
                self._client.set_experiment_tag(self.experiment_id, name, value)

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
        self.log_points(run_id, points([{"step": 0, **metrics}]))

    def log_points(self, run_id: str, measured: Sequence[Metric], patient: bool = True) -> None:
        """Log points of curves; the same ones again change nothing. Raises Unreachable; soon, when not patient."""
        with nullcontext() if patient else hurried():
            for start in range(0, len(measured), BATCH):
                try:
                    self._client.log_batch(run_id, metrics=measured[start : start + BATCH])
                except MlflowException as error:
                    raise Unreachable(
                        f"MLflow at {self.uri} cannot be told of curves: {error}. See that it runs, then run again."
                    ) from error

    def last_step(self, run_id: str, metric: str) -> int:
        """Return the highest step of a metric logged so far, 0 when there is none."""
        return max((point.step for point in self._client.get_metric_history(run_id, metric)), default=0)

    def log_input(self, run_id: str, role: str, name: str, digest: str, source: Path, facts: Any) -> None:
        """Say what a run is made from: a dataset in MLflow's words, of the first 36 digits of its digest."""
        dataset = Dataset(name, digest[:36], "local", source.absolute().as_uri(), profile=json.dumps(facts))
        tags = [InputTag("mlflow.data.context", role)]
        self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def log_model(self, run_id: str, name: str, kind: str, digest: str, source: Path) -> None:
        """Say that a run made a model: a LoggedModel with its digest, which versions of the registry link to."""
        if not self._logged_model(digest):
            tags = {"llama2.digest": digest, "llama2.source": str(source)}
            name = re.sub(r"[/:.%\"']", "_", name)  # which MLflow refuses here
            made = self._client.create_logged_model(self.experiment_id, name, run_id, tags, model_type=kind)
            self._client.finalize_logged_model(made.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)])

    def _logged_model(self, digest: str) -> LoggedModel | None:
        """Return an artifact's LoggedModel, if there is one."""
        found = self._client.search_logged_models([self.experiment_id], f"tags.`llama2.digest` = '{digest}'")
        return found[0] if found else None

    def _link(self, digest: str, name: str, version: str) -> None:
        """Have the LoggedModel of an artifact name its version in the registry, as MLflow's server would."""
        if model := self._logged_model(digest):
            known = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
            every = json.dumps([*known, {"name": name, "version": version}])
            self._client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: every})

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
        self._link(Path(tags.get("llama2.source", "")).name, name, str(made.version))
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

    def give_up(self, run_id: str, status: str) -> None:
        """End a run because of an error, which is what is to be told: MLflow may be away, or its disk full, too."""
        with hurried(), suppress(MlflowException):
            self.finish(run_id, status)

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


def points(rows: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return the points of now that rows of numbers with a "step" hold; what is no finite number is left out."""
    now = get_current_time_millis()
    return [
        Metric(metric_name(name), float(value), now, int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    ]


class Machine:
    """What the machine is busy with, under the names that MLflow's page of system metrics looks for."""

    def __init__(self) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor()]
        with suppress(ImportError, RuntimeError):  # no GPU of NVIDIA's, or nothing to ask it with
            self._monitors.append(GPUMonitor())

    def look(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values: dict[str, float] = monitor.aggregate_metrics()  # type: ignore
            found |= {f"system/{name}": value for name, value in values.items()}
            monitor.clear_metrics()
        return found


@contextmanager
def hurried() -> Iterator[None]:
    """Have a request to a server that is not there fail within seconds, in place of minutes."""
    settings = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0, MLFLOW_HTTP_REQUEST_TIMEOUT: 5}
    before = {setting: setting.get_raw() for setting in settings}
    try:
        for setting, value in settings.items():
            setting.set(value)
        yield
    finally:
        for setting, value in before.items():
            setting.unset() if value is None else setting.set(value)


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
