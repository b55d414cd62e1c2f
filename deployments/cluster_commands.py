"""The commands of a cluster's other machines: join the runs of another, and say whether training lives."""
# ruff: noqa: PLC0415

import time
from pathlib import Path
from typing import Annotated

import typer

from deployments.model_commands import Home
from llama2_core.errors import Llama2Error

app = typer.Typer()


@app.command(epilog="Example: llama2 join --home /shared/llama2")
def join(home: Home = Path("var")) -> None:
    """Lend this machine to the run that works below a shared folder, stage by stage, until Ctrl-C."""
    from tasks import nodes
    from tasks.interrupts import interruptible

    try:
        with interruptible():
            nodes.join(home, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("Left: training ranks were asked to save and end.")


@app.command(epilog="Example: llama2 alive --home /shared/llama2 --seconds 900")
def alive(
    home: Home = Path("var"),
    seconds: Annotated[float, typer.Option(min=1, help="Longest silence of a stage that lives.")] = 900.0,
) -> None:
    """Exit with status 1 when the machines are at a stage that has shown no sign of life for so long."""
    from tasks.nodes import last_sign

    sign = last_sign(home)
    if sign and time.time() - sign > seconds:
        raise Llama2Error(f"the stage below {home} has shown no sign of life for {time.time() - sign:.0f} s")


if __name__ == "__main__":
    app()
