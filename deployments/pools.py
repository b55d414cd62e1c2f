"""Work pools: where flow runs become processes, containers, pods or Slurm jobs. deployments/pools/ has a file each."""

import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.utilities.collections import deep_merge
from prefect.utilities.dispatch import lookup_type
from prefect.workers.base import BaseWorker
from pydantic import Field

from deployments.services.flow_process import MODULE
from llama2_core.config import Record
from llama2_core.errors import ConfigError

FOLDER = Path(__file__).parent / "pools"


class Pool(Record):
    """A work pool, and what its jobs differ in from Prefect's own template of its type."""

    name: str = "llama2"
    """Of the pool."""
    type: str = "process"
    """process, docker, kubernetes or slurm: what its worker starts."""
    package: str = "prefect"
    """Where the worker comes from: an extra of ours."""
    defaults: dict[str, Any] = Field(default={})
    """Job variable -> its default, which a deployment or a run can change."""
    job_configuration: dict[str, Any] = Field(default={})
    """Laid over the template's job configuration."""
    job_variables: dict[str, Any] = Field(default={})
    """Of our deployments."""
    runtime: dict[str, Any] = Field(default={})
    """Of flow runs there: home on a shared folder, processes for the GPUs."""

    def base_job_template(self) -> dict[str, Any]:
        """Return the template. Raises ConfigError when the worker's package is missing."""
        template = worker_type(self.type, self.package).get_default_base_job_template()
        properties = template["variables"]["properties"]
        for name, default in self.defaults.items():
            if name not in properties:
                raise ConfigError(
                    f"pool {self.type}: {name} is no job variable; there are {', '.join(properties)}"
                )
            properties[name]["default"] = default
        template["variables"]["required"] = [
            name for name in template["variables"].get("required", []) if name not in self.defaults
        ]
        template["job_configuration"] = deep_merge(template["job_configuration"], self.job_configuration)
        return template


def read_pool(type: str, name: str) -> Pool:
    """Return the pool of a template, under a name. Raises ConfigError for a type without one."""
    path = FOLDER / f"{type}.yaml"
    if not path.is_file():
        types = ", ".join(sorted(found.stem for found in FOLDER.glob("*.yaml")))
        raise ConfigError(f"no work pool of type {type!r}; there are {types}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    pool = Pool.model_validate({**values, "name": name, "type": type})
    if type == "process":  # this Python, in the worker's process group: it ends with the worker
        pool = pool.model_copy(update={"job_variables": {"command": f"{sys.executable} -m {MODULE}"}})
    return pool


def worker_type(type: str, package: str) -> type[BaseWorker[Any, Any, Any]]:
    """Return Prefect's worker of a type. Raises ConfigError when its package is missing."""
    try:
        __import__(package.replace("-", "_"))
        return lookup_type(BaseWorker, type)
    except (ImportError, KeyError) as error:
        raise ConfigError(
            f'a pool of type {type} wants {package}: pip install "llama2-pipeline[{type}]"'
        ) from error
