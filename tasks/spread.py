"""Work that falls into groups, spread over processes; each group is a task run of its own."""

from collections.abc import Callable, Sequence
from typing import Any

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner

from tasks.process import die_with_parent
from tasks.runtime import Runtime

Work = Callable[[Any], None]
"""Done on one group; it can be sent to another process."""


def spread(name: str, work: Work, groups: Sequence[Any], runtime: Runtime) -> None:
    """Do the work on every group, here or in `runtime.data_workers` processes.

    Raises what the first group that fails raises; in processes the others are done before.
    """
    labels = [f"{name} {number}" for number in range(len(groups))]
    if runtime.data_workers == 1:
        for label, group in zip(labels, groups, strict=True):
            group_of_documents(label, work, group)
        return
    with ProcessPoolTaskRunner(runtime.data_workers, initializer=die_with_parent) as runner:
        parameters = {"label": labels, "work": unmapped(work), "group": list(groups)}
        for future in runner.map(group_of_documents, parameters):
            future.result()


@task(name="group of documents", task_run_name="{label}", cache_policy=NO_CACHE)
def group_of_documents(label: str, work: Work, group: Any) -> None:
    """Work on one group."""
    work(group)


def in_turn(name: str, work: Work, groups: Sequence[Any]) -> None:
    """Do the work on every group, here, untracked."""
    for group in groups:
        work(group)
