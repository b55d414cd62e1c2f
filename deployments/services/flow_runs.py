"""Flows run from the command line: with a Prefect server of their own, and an end that a person understands."""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from deployments.environment import prepare
from deployments.services.prefect_server import prefect_server
from tasks.interrupts import interruptible

console = Console()


@contextmanager
def running_flows(home: Path) -> Iterator[None]:
    """Serve Prefect while flows run; Ctrl-C ends with status 130 and says how to go on."""
    prepare(home)
    atexit.register(_say_no_more)
    with interruptible(), prefect_server(home, meanwhile=_import_flows):
        # its heartbeats are for workers, and cost a second a flow
        from prefect.logging.handlers import APILogHandler  # noqa: PLC0415
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: PLC0415

        try:
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                yield
        except KeyboardInterrupt:
            console.print("[yellow]Stopped. Run the same command again to go on.[/]")
            raise typer.Exit(130) from None
        finally:
            APILogHandler().flush()


def _say_no_more() -> None:
    """Close standard error, last of all: DuckDB's bindings list there what Prefect's threads still hold at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _import_flows() -> None:
    """Prefect reads its settings when it is imported: not before they are made.

    The garbage collector would go through half a million objects again and again, and at the end, that all stay.
    """
    gc.disable()
    import flows.llama2  # noqa: F401, PLC0415

    gc.freeze()
    gc.enable()
