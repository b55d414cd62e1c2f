"""Work that falls into groups, spread over processes or a Ray cluster; each group is a task run of its own."""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner

from llama2_core.errors import Llama2Error
from storage.errors import MissingPackage
from tasks.process import die_with_parent
from tasks.runtime import Runtime

Work = Callable[[Any], None]
"""Done on one group; it can be sent to another process."""
Spread = Callable[[str, Work, Sequence[Any]], None]
"""Does a named work on every group."""
Workers = tuple[Any, tuple[type[Exception], ...]]
"""A Prefect task runner, and what it raises when its workers are lost."""

LOCAL = {"include_dashboard": False, "object_store_memory": 100 << 20}
"""A Ray cluster of this machine alone; it carries the names of groups, documents travel through files."""
PASSED_ON = ("PREFECT_", "HF_", "DO_NOT_TRACK", "TOKENIZERS_")
"""Variables that workers of another cluster get as they are here."""


class WorkersLost(Llama2Error):
    """Those who work on groups cannot be reached, or died with them."""


def spread(name: str, work: Work, groups: Sequence[Any], runtime: Runtime) -> None:
    """Do the work on every group: here, in `runtime.data_workers` processes, or on the cluster at `ray_address`.

    Raises what the first group that fails raises; elsewhere than here the others are done before. Raises WorkersLost,
    and MissingPackage without Ray.
    """
    labels = [f"{name} {number}" for number in range(len(groups))]
    if runtime.data_workers == 1 and not runtime.ray_address:
        for label, group in zip(labels, groups, strict=True):
            group_of_documents(label, work, group)
        return
    parameters = {
        "label": labels,
        "work": unmapped(partial(in_folder, Path.cwd(), work)),
        "group": list(groups),
    }
    runner, lost = _ray(runtime) if runtime.ray_address else _processes(runtime)
    try:
        with runner:
            for future in runner.map(group_of_documents, parameters):
                future.result()
    except Exception as error:
        chain = (error, error.__context__)  # a lost cluster cannot be left in order: that raises too
        reason = next((each for each in chain if isinstance(each, lost)), None)
        if reason is None:
            raise
        lines = [type(reason).__name__, *str(reason).strip().splitlines()]
        said = next((line.strip() for line in lines if "details" in line), lines[-1])  # gRPC's own reason
        raise WorkersLost(
            f"{name}: workers do not answer ({said}). See that they have memory and, with runtime.ray_address, "
            "that the cluster is up; then run again: groups that are done are kept."
        ) from reason


def _processes(runtime: Runtime) -> Workers:
    runner = ProcessPoolTaskRunner(runtime.data_workers, initializer=die_with_parent)
    return runner, (BrokenProcessPool,)


def _ray(runtime: Runtime) -> Workers:
    """Return the workers of a Ray cluster, telemetry and, where it starts here, dashboard off."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a new cluster is started when one is lost
    options: dict[str, Any] = {"address": runtime.ray_address}
    options |= {"logging_level": logging.ERROR, "log_to_driver": False}
    if runtime.ray_address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # which makes it listen on 127.0.0.1 only
        options |= LOCAL | {"num_cpus": runtime.data_workers}
    else:
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        options["runtime_env"] = {"env_vars": environment}
    try:
        from prefect_ray import RayTaskRunner  # noqa: PLC0415  (optional, and it reads the variables above)
        from ray.exceptions import RayError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingPackage('runtime.ray_address needs Ray: pip install "llama2-pipeline[ray]"') from None
    return RayTaskRunner(init_kwargs=options), (RayError, ConnectionError)


@task(name="group of documents", task_run_name="{label}", cache_policy=NO_CACHE)
def group_of_documents(label: str, work: Work, group: Any) -> None:
    """Work on one group."""
    work(group)


def in_folder(folder: Path, work: Work, group: Any) -> None:
    """Work where relative paths mean what they mean to who spreads."""
    os.chdir(folder)
    work(group)


def in_turn(name: str, work: Work, groups: Sequence[Any]) -> None:
    """Do the work on every group, here, untracked."""
    for group in groups:
        work(group)
