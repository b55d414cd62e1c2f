"""Prefect's process worker, `python -m deployments.services.flow_worker POOL`; first it sets straight what one left.

A worker that was killed took its flow runs with it, and nobody told the server.
"""

import os
import socket
import sys

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed, Scheduled

from deployments.services.flow_process import MODULE, subflow_runs

AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def main(pool: str) -> None:
    with get_client(sync_client=True) as client:
        for line in set_straight(client, pool):
            print(line, flush=True)
    worker = [
        "worker",
        "start",
        "--pool",
        pool,
        "--type",
        "process",
        "--name",
        "llama2",
        "--with-healthcheck",
    ]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *worker])


def set_straight(client: SyncPrefectClient, pool: str) -> list[str]:
    """Say of flow runs of this machine whose process is gone that they crashed, and schedule anew those without one."""
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )
    said = []
    for run in found:
        if state := true_state(run):
            for lost in [*subflow_runs(client, [run], AT_WORK), run]:
                client.set_flow_run_state(lost.id, state if lost is run else _ended(lost), force=True)
            said.append(f"Flow run {run.name} was {run.state_name}, is {state.name}.")
    return said


def true_state(run: FlowRun) -> State | None:
    """Return what a run at work is in truth, where it is not what it says."""
    host, _, pid = (run.infrastructure_pid or "").rpartition(":")
    if not pid:
        return Scheduled() if run.state_type == StateType.PENDING else None
    elsewhere = host and host != socket.gethostname()
    return None if elsewhere or _runs_a_flow(int(pid)) else _ended(run)


def _runs_a_flow(pid: int) -> bool:
    """Tell whether a process is a flow run's: pids are used again."""
    try:
        return MODULE in psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _ended(run: FlowRun) -> State:
    if run.state_type == StateType.CANCELLING:
        return Cancelled(message="Its process has ended.")
    return Crashed(message="Its process was gone when its worker was started again.")


if __name__ == "__main__":
    main(*sys.argv[1:])
