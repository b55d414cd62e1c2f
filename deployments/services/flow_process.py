"""A flow run's process, `python -m deployments.services.flow_process`: Prefect's engine, and signs of life beside it.

The automation `zombies` goes by the time that a sign carries. Prefect's own carry the time of this process's clock: one
that was set back an hour makes them look old, and a run at work is called Crashed. Ours carry the server's time. A run
that was called so while nobody could hear it, for the machine slept or the network was away, takes it back.
"""

import os
import runpy
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Running

MODULE = "deployments.services.flow_process"
SIGN = "prefect.flow-run.heartbeat"
SECONDS = 30
"""Between signs of life."""
SILENT = "No sign of life"
"""What the automation's message begins with."""


def main(flow_run: UUID) -> None:
    threading.Thread(target=keep_saying, args=(flow_run,), daemon=True).start()
    sys.modules.pop("prefect.engine", None)  # the client has imported it; now it is the program
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def keep_saying(flow_run: UUID) -> None:
    """Give signs of life for a flow run and those below it, as long as this process lives."""
    began: datetime | None = None
    while True:
        try:
            with get_client(sync_client=True) as client:
                began = began or server_time(client)
                say_alive(client, flow_run, began)
        except (httpx.HTTPError, PrefectException):  # a server that is away is asked again
            pass
        time.sleep(SECONDS)


def server_time(client: SyncPrefectClient) -> datetime:
    return parsedate_to_datetime(client.request("GET", "/health").headers["date"])


def say_alive(client: SyncPrefectClient, flow_run: UUID, began: datetime) -> None:
    """Give a sign for all runs at work here, and take back a Crashed that silence has brought since `began`."""
    top, signs, now = client.read_flow_run(flow_run), [], server_time(client).isoformat()
    for run in [top, *subflow_runs(client, [top], [StateType.RUNNING, StateType.CRASHED])]:
        state = run.state
        if (
            state
            and state.is_crashed()
            and str(state.message).startswith(SILENT)
            and state.timestamp >= began
        ):
            state = client.set_flow_run_state(run.id, Running(message="It was alive.")).state
        if state and state.is_running():
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
            signs.append({"id": str(uuid4()), "event": SIGN, "resource": resource, "occurred": now})
    client.request("POST", "/events", json=signs)


def subflow_runs(
    client: SyncPrefectClient, parents: Sequence[FlowRun], types: list[StateType]
) -> list[FlowRun]:
    """Return the runs below some that are in one of these states, the innermost first."""
    if not parents:
        return []
    parent = FlowRunFilterParentFlowRunId(any_=[run.id for run in parents])
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state, parent_flow_run_id=parent))
    return [*subflow_runs(client, found, types), *found]


if __name__ == "__main__":
    main(UUID(os.environ["PREFECT__FLOW_RUN_ID"]))
