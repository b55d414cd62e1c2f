"""The commands of the stack: up, down, status, and the deployments of flows. Imports wait."""
# ruff: noqa: PLC0415

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.environment import prepare
from deployments.model_commands import Home
from llama2_core.errors import ConfigError, Llama2Error

app = typer.Typer()
console = Console()
DOWN_SECONDS = 120.0


@app.command(epilog="Examples: llama2 up;  llama2 up --home /data/llama2 --mlflow-port 5001")
def up(
    home: Home = Path("var"),
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Of Prefect's UI and API.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Of MLflow's UI and API.")] = 5000,
    annotate_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the annotation page.")] = 8642,
) -> None:
    """Serve Prefect, MLflow, a worker for flow runs and the annotation page on this machine until Ctrl-C.

    The annotation page comes once there is a chat model. What ends is started again.
    """
    from deployments.services.stack import annotation_page, require_free_ports, servers_of, worker
    from deployments.services.stack_state import running_stack
    from deployments.services.supervisor import Supervisor

    if stack := running_stack(home):
        print(f"It is up already, process {stack.pid}.")
        for part in stack.parts:
            print(f"{part.name:9}{part.address or 'waits for flow runs'}")
        return
    prepare(home)
    page = partial(annotation_page, home, prefect_port, annotate_port)
    servers = servers_of(home, prefect_port, mlflow_port)
    now = page()
    require_free_ports([*servers, now] if now else servers)
    print("Starting; Ctrl-C or `llama2 down` stops it.", flush=True)
    supervisor = Supervisor(home, partial(print, flush=True))
    supervisor.run(servers, [partial(worker, prefect_port), page])


@app.command(epilog="Example: llama2 down --home /data/llama2")
def down(home: Home = Path("var")) -> None:
    """Stop what `llama2 up` started: the worker and its flow runs first, which save, then the servers."""
    from deployments.services.stack_state import running_stack

    stack = running_stack(home)
    if not stack:
        print(f"Nothing is up below {home}.")
        return
    os.kill(stack.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while stack.alive():
        if time.monotonic() > deadline:
            raise Llama2Error(f"process {stack.pid} has not ended in {DOWN_SECONDS:.0f} s: see {home}/log")
        time.sleep(0.1)
    print("Stopped.")


@app.command(epilog="Examples: llama2 status;  llama2 status --json")
def status(
    home: Home = Path("var"), as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Say how each part of the stack is; exit status 1 when one does not answer or none is up."""
    import json

    from deployments.services.stack_state import running_stack, uptime

    stack = running_stack(home)
    if not stack:
        raise Llama2Error(f"nothing is up below {home}: `llama2 up` starts it")
    healthy = {part.name: part.healthy() for part in stack.parts}
    if as_json:
        rows = [{**part.model_dump(), "healthy": healthy[part.name]} for part in stack.parts]
        print(json.dumps({"pid": stack.pid, "parts": rows}, indent=2))
    else:
        table = Table("part", "health", "process", "port", "up", "restarts")
        for part in stack.parts:
            health = "[green]well[/]" if healthy[part.name] else "[red]does not answer[/]"
            up_for = uptime(part.started) if part.pid else "-"
            table.add_row(part.name, health, str(part.pid or "-"), str(part.port), up_for, str(part.restarts))
        console.print(table)
        print(f"Logs are in {home}/log.")
    if not all(healthy.values()):
        raise typer.Exit(1)


@app.command(epilog="Examples: llama2 deploy;  llama2 deploy --on kubernetes --pool kubernetes --at-once 4")
def deploy(
    home: Home = Path("var"),
    pool: Annotated[str, typer.Option(help="Work pool that flow runs are sent to.")] = "llama2",
    on: Annotated[str, typer.Option(help="Its type: process, docker, kubernetes or slurm.")] = "process",
    at_once: Annotated[
        int, typer.Option(min=1, help="Flow runs of the pool at once: one a machine, or a set of GPUs.")
    ] = 1,
    webhook: Annotated[
        str, typer.Option(envvar="LLAMA2_WEBHOOK", help="Address that is told of flow runs that fail.")
    ] = "",
) -> None:
    """Put every flow on the Prefect server that is up: forms, work pool, limits, automations. Again, it updates them.

    The server is the one that `llama2 up --home HOME` started, or that of PREFECT_API_URL.
    """
    from deployments.services.stack import prefect_at
    from deployments.services.stack_state import running_stack

    stack = running_stack(home)
    if stack:
        os.environ.update(prefect_at(stack.part("Prefect").port))
    elif not os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            f"nothing is up below {home}, and PREFECT_API_URL is not set: `llama2 up` starts a server"
        )
    prepare(home)
    from deployments.deploy import deploy, read_deployments
    from deployments.pools import read_pool

    runtime = {"home": home.absolute()}
    if stack:
        runtime |= {"mlflow_address": stack.part("MLflow").address}
    deploy(read_deployments(), read_pool(on, pool), at_once, runtime, webhook, print)
    print(f"Open {os.environ['PREFECT_API_URL'].removesuffix('/api')}/deployments")
