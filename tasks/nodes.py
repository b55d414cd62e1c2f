"""Several machines at one stage, over a folder that all of them see.

The machine that runs the flow leaves an order below `home`; on each other machine `llama2 join` takes a place in it and
runs the same torchrun. Between them lies torchrun's static rendezvous: rank 0, its log and its store are where the flow
is, a machine that comes back cannot restart the others' ranks, and none waits for a store that is cut off.
"""

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from llama2_core.config import Positive, Record
from llama2_core.errors import ConfigError, Llama2Error
from storage.disk import atomic_write
from tasks.runtime import Runtime, address_of
from tasks.signs import HEARTBEAT
from tasks.workers import LOG, Worker, clear, torchrun

POLL_SECONDS = 0.5
JOIN_SECONDS = 600.0
"""For the other machines to come, and again for their torchruns to meet."""


class MachinesMissing(Llama2Error):
    """Fewer machines came than an order asks for."""


class Order(Record):
    """A stage that several machines are to do together."""

    id: str
    """Of this try; no two are the same."""
    directory: str
    """The stage's, from `home`."""
    nodes: Positive
    """Machines."""
    processes: Positive
    """Of each machine."""
    threads: Positive
    """Of each process."""
    rendezvous: str
    """Host and port of the first machine."""


@contextmanager
def at_work_together(
    directory: Path, processes: int, runtime: Runtime, say: Callable[[str], None]
) -> Iterator[Worker]:
    """Set all machines on a stage's directory; on the way out end our part, then tell the others to end theirs.

    Raises MachinesMissing when fewer than `runtime.nodes` come, ConfigError for a rendezvous that is not known here.
    """
    order = Order(
        id=uuid.uuid4().hex[:12],
        directory=os.path.relpath(directory, runtime.home),
        nodes=runtime.nodes,
        processes=processes,
        threads=runtime.threads,
        rendezvous=runtime.rendezvous,
    )
    arguments, environment = meeting(order, 0)
    clear(directory)
    with _given(order, runtime.home) as places:
        _await_machines(places, order, runtime.home, say)
        with torchrun(directory, processes, order.threads, arguments, environment, directory / LOG) as worker:
            yield worker


def join(home: Path, say: Callable[[str], None]) -> None:
    """Take a place in every order that has one left, until KeyboardInterrupt; then end our ranks, which save first."""
    log = home / "log" / f"join-{socket.gethostname()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"Waiting for work below {home.absolute()}; the log is {log}.")
    refused = ""
    while True:
        order = standing(home)
        if order and order.id != refused:
            place = _take_place(order, home)
            refused = order.id  # a place is taken once: whoever lost its ranks waits for the next order
            if place:
                say(f"{order.directory}: machine {place + 1} of {order.nodes}")
                ended = _take_part(order, place, home, log)
                how = {0: "done", None: "withdrawn"}.get(ended, f"ended (exit status {ended}), see {log}")
                say(f"{order.directory}: {how}")
        time.sleep(POLL_SECONDS)


def _take_part(order: Order, place: int, home: Path, log: Path) -> int | None:
    """Run our ranks until they end, or the order is withdrawn; return how they ended, None when they had not."""
    arguments, environment = meeting(order, place)
    directory = home / order.directory
    with torchrun(directory, order.processes, order.threads, arguments, environment, log) as worker:
        while (ended := worker.status()) is None and standing(home) == order:
            time.sleep(POLL_SECONDS)
    return ended


def meeting(order: Order, place: int) -> tuple[list[str], dict[str, str]]:
    """Return torchrun's arguments and environment for the machine that has this place.

    Raises ConfigError for a rendezvous whose name or route is not known here.
    """
    host, port = address_of(order.rendezvous)
    interface = interface_towards(host)
    arguments = [
        f"--nnodes={order.nodes}",
        f"--node-rank={place}",
        f"--master-addr={host}",
        f"--master-port={port}",
        f"--rdzv-id={order.id}",
        f"--rdzv-conf=timeout={JOIN_SECONDS:.0f}",
    ]
    return arguments, {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def interface_towards(host: str) -> str:
    """Return the network interface that leads to a host, or that carries its address when that is this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing
            own = probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(f"runtime.rendezvous: {host} cannot be reached from here: {error}") from error
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == own for each in addresses):
            return name
    raise ConfigError(f"runtime.rendezvous: no network interface has {own}, which leads to {host}")


def standing(home: Path) -> Order | None:
    """Return the order that stands now."""
    with suppress(FileNotFoundError):
        return Order.model_validate_json(_order_path(home).read_bytes())
    return None


def last_sign(home: Path) -> float:
    """Return when the stage of the standing order last made a step, or was ordered, in seconds of the epoch; else 0."""
    order = standing(home)
    signs = [_order_path(home), home / order.directory / HEARTBEAT] if order else []
    return max((path.stat().st_mtime for path in signs if path.exists()), default=0.0)


@contextmanager
def _given(order: Order, home: Path) -> Iterator[Path]:
    """Let an order stand; yields the folder in which its places are taken.

    Raises ConfigError when another run's order stands below the same home.
    """
    path, places = _order_path(home), home / "cluster" / order.id
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # dies with the process; an order left behind does not
        except BlockingIOError as error:
            raise ConfigError(
                f"another run has the machines below {home}: wait for it, or use another runtime.home"
            ) from error
        for left in path.parent.glob("*/"):  # by a run that was killed
            shutil.rmtree(left)
        places.mkdir()
        atomic_write(path, order.model_dump_json().encode())
        try:
            yield places
        finally:
            path.unlink(missing_ok=True)
            shutil.rmtree(places, ignore_errors=True)


def _await_machines(places: Path, order: Order, home: Path, say: Callable[[str], None]) -> None:
    others = order.nodes - 1
    deadline = time.monotonic() + JOIN_SECONDS
    say(f"  waiting for {others} more machine{'s' * (others > 1)}: llama2 join --home {home.absolute()}")
    while (come := len(list(places.iterdir()))) < others:
        if time.monotonic() > deadline:
            raise MachinesMissing(
                f"{come} of {others} other machines came within {JOIN_SECONDS:.0f} s. Run `llama2 join --home "
                f"{home.absolute()}` on each, see that they reach that folder, and run again."
            )
        time.sleep(POLL_SECONDS)


def _take_place(order: Order, home: Path) -> int:
    """Return the place that is ours from now on, from 1; 0 when all are taken."""
    for place in range(1, order.nodes):
        with suppress(FileExistsError, FileNotFoundError):  # another's, or withdrawn
            with (home / "cluster" / order.id / str(place)).open("x") as file:
                file.write(socket.gethostname())
            return place
    return 0


def _order_path(home: Path) -> Path:
    return home / "cluster" / "order.json"
