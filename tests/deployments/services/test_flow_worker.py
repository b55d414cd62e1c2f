"""What a worker that starts says of the flow runs that the one before it left."""

import os
import socket
import subprocess
import sys
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from deployments.services.flow_worker import true_state

GONE = "999999"


def run(state: StateType, pid: str | None) -> FlowRun:
    return FlowRun(flow_id=uuid4(), state=State(type=state), state_type=state, infrastructure_pid=pid)


@pytest.mark.parametrize(
    ("state", "pid", "truth"),
    [
        (StateType.RUNNING, GONE, StateType.CRASHED),
        (StateType.RUNNING, f"{socket.gethostname()}:{GONE}", StateType.CRASHED),
        pytest.param(StateType.RUNNING, str(os.getpid()), StateType.CRASHED, id="another process' now"),
        (StateType.RUNNING, f"elsewhere:{GONE}", None),
        (StateType.CANCELLING, GONE, StateType.CANCELLED),
        (StateType.PENDING, None, StateType.SCHEDULED),
        (StateType.RUNNING, None, None),
    ],
)
def test_a_run_whose_process_is_gone_is_not_at_work(
    state: StateType, pid: str | None, truth: StateType | None
) -> None:
    found = true_state(run(state, pid))
    assert (found and found.type) == truth


def test_a_run_whose_process_lives_is_left_alone() -> None:
    waiting = [sys.executable, "-c", "input()", "-m", "deployments.services.flow_process"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as process:
        assert true_state(run(StateType.RUNNING, str(process.pid))) is None
        process.communicate(b"\n")
