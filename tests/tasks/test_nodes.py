"""Orders below a shared folder: who takes part, who is refused, and when a stage is said to be dead."""

import os
import socket
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from llama2_core.errors import ConfigError
from tasks import nodes
from tasks.nodes import (
    MachinesMissing,
    Order,
    at_work_together,
    interface_towards,
    last_sign,
    meeting,
    standing,
)
from tasks.runtime import Runtime
from tasks.signs import HEARTBEAT
from tasks.workers import LOOPBACK


@pytest.fixture
def order() -> Order:
    return Order(id="1", directory="stage", nodes=3, processes=2, threads=1, rendezvous="127.0.0.1:29400")


@pytest.mark.parametrize("rendezvous", ["", "node-0", ":29400", "node-0:", "node-0:99999", "node-0:x"])
def test_several_machines_must_say_where_they_meet(rendezvous: str) -> None:
    with pytest.raises(ValidationError, match="several machines need the host and port of this one"):
        Runtime(nodes=2, rendezvous=rendezvous)
    assert Runtime(nodes=2, rendezvous="[fd00::1]:29400").nodes == 2


def test_the_interface_is_the_one_that_leads_there() -> None:
    assert interface_towards("127.0.0.1") == LOOPBACK
    with pytest.raises(ConfigError, match=r"runtime.rendezvous: no-such-host.invalid cannot be reached"):
        interface_towards("no-such-host.invalid")


def test_each_machine_has_its_place_in_torchruns_command(order: Order) -> None:
    arguments, environment = meeting(order, 2)
    assert {"--nnodes=3", "--node-rank=2", "--master-addr=127.0.0.1", "--master-port=29400"} < set(arguments)
    assert environment == {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}


def test_an_order_has_so_many_places_and_is_withdrawn(tmp_path: Path, order: Order) -> None:
    assert standing(tmp_path) is None
    with nodes._given(order, tmp_path) as places:
        assert standing(tmp_path) == order
        assert [nodes._take_place(order, tmp_path) for _ in range(3)] == [1, 2, 0]
        assert (places / "1").read_text() == socket.gethostname()
    assert standing(tmp_path) is None and not places.exists()
    assert nodes._take_place(order, tmp_path) == 0


def test_two_runs_cannot_have_the_same_machines(tmp_path: Path, order: Order) -> None:
    second = order.model_copy(update={"id": "2"})
    with nodes._given(order, tmp_path):
        refused = pytest.raises(ConfigError, match="another run has the machines below")
        with refused, nodes._given(second, tmp_path):
            pass
        assert standing(tmp_path) == order
    with nodes._given(second, tmp_path):
        assert standing(tmp_path) == second


def test_an_order_that_a_killed_run_left_is_replaced(tmp_path: Path, order: Order) -> None:
    (tmp_path / "cluster" / "left").mkdir(parents=True)
    left = order.model_copy(update={"id": "left"})
    (tmp_path / "cluster" / "order.json").write_text(left.model_dump_json())
    with nodes._given(order, tmp_path):
        assert standing(tmp_path) == order
        assert nodes._take_place(left, tmp_path) == 0 < nodes._take_place(order, tmp_path)


def test_missing_machines_are_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "JOIN_SECONDS", 0.0)
    runtime = Runtime(home=tmp_path, nodes=3, rendezvous="127.0.0.1:29400")
    said: list[str] = []
    with (
        pytest.raises(MachinesMissing, match=r"0 of 2 other machines came .* Run `llama2 join --home"),
        at_work_together(tmp_path / "stage", 1, runtime, said.append),
    ):
        pass
    assert said == [f"  waiting for 2 more machines: llama2 join --home {tmp_path}"]
    assert standing(tmp_path) is None


def test_the_last_sign_of_life_is_the_newer_of_order_and_heartbeat(tmp_path: Path, order: Order) -> None:
    assert last_sign(tmp_path) == 0
    now = time.time()
    (tmp_path / "stage").mkdir()
    beat = tmp_path / "stage" / HEARTBEAT
    beat.touch()
    with nodes._given(order, tmp_path):
        os.utime(beat, (now - 500, now - 500))  # of an earlier try
        os.utime(tmp_path / "cluster" / "order.json", (now - 100, now - 100))
        assert last_sign(tmp_path) == pytest.approx(now - 100)
        os.utime(beat, (now - 7, now - 7))
        assert last_sign(tmp_path) == pytest.approx(now - 7)
    assert last_sign(tmp_path) == 0
