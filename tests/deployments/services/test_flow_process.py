"""Signs of life of a flow run, given to a real server."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Crashed, Failed, Running
from prefect.testing.utilities import prefect_test_harness

from deployments.services.flow_process import say_alive, server_time

LONG_AGO = datetime(2023, 7, 18, tzinfo=UTC)


@flow
def training() -> None: ...


@task
def stage() -> None: ...


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as client:
        yield client


def made(client: SyncPrefectClient, state: State, parent: FlowRun | None = None) -> FlowRun:
    within = client.create_task_run(stage, parent.id, "0").id if parent else None
    run = client.create_flow_run(training, parent_task_run_id=within)
    client.set_flow_run_state(run.id, state, force=True)
    return run


def name_of(client: SyncPrefectClient, run: FlowRun) -> str:
    return str(client.read_flow_run(run.id).state_name)


def signs(client: SyncPrefectClient, run: FlowRun) -> list[datetime]:
    asked = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "occurred": {"since": LONG_AGO.isoformat(), "until": "2100-01-01T00:00:00Z"},
    }
    for _ in range(50):  # the server writes events by and by
        found = client.request("POST", "/events/filter", json={"filter": asked}).json()["events"]
        if found:
            break
        time.sleep(0.2)
    return [datetime.fromisoformat(event["occurred"]) for event in found]


def test_a_sign_carries_the_servers_time(client: SyncPrefectClient) -> None:
    parent = made(client, Running())
    child = made(client, Running(), parent)
    say_alive(client, parent.id, server_time(client))
    for run in (parent, child):
        (occurred,) = signs(client, run)
        assert abs(server_time(client) - occurred) < timedelta(seconds=60)


def test_a_run_that_was_only_silent_takes_crashed_back(client: SyncPrefectClient) -> None:
    parent = made(client, Crashed(message="No sign of life for 90 s."))
    child = made(client, Crashed(message="No sign of life for 90 s."), parent)
    say_alive(client, parent.id, LONG_AGO)
    assert (name_of(client, parent), name_of(client, child)) == ("Running", "Running")


def test_what_an_earlier_process_left_stays_crashed(client: SyncPrefectClient) -> None:
    parent = made(client, Running())
    child = made(client, Crashed(message="No sign of life for 90 s."), parent)
    say_alive(client, parent.id, server_time(client) + timedelta(seconds=5))
    assert name_of(client, child) == "Crashed"


@pytest.mark.parametrize(
    "state",
    [Crashed(message="Its process was gone."), Cancelled(), Failed(), Completed()],
    ids=lambda s: s.name,
)
def test_another_end_stands(client: SyncPrefectClient, state: State) -> None:
    run = made(client, state)
    say_alive(client, run.id, LONG_AGO)
    assert name_of(client, run) == state.name
