"""`llama2 plan`: memory, time, money and CO2 on the table before anything runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from llama2_core.errors import ConfigError
from llama2_core.planning import Cluster, Plan

app = typer.Typer()
console = Console()
HERE = "here"
CLUSTERS = Path(__file__).parent / "clusters"


@app.command(
    epilog="Examples: llama2 plan --cluster here;  llama2 plan paper-7b --cluster a100-80gb --accelerators 1024;  "
    "llama2 plan mine.yaml --cluster mine-cluster.yaml --stage sft --json"
)
def plan(
    profile: Annotated[str, typer.Argument(help="A profile's name, or the path of a YAML file.")] = "laptop",
    cluster: Annotated[
        str, typer.Option(help="A cluster's name, the path of a YAML file, or here: this machine, measured.")
    ] = "laptop-2-cores",
    accelerators: Annotated[int | None, typer.Option(min=1, help="Instead of the cluster's.")] = None,
    stage: Annotated[str, typer.Option(help="Only stages with this in their name.")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="path=value; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts for programs.")] = False,
) -> None:
    """Say what a run takes, stage by stage, before it starts; exit status 1 when a stage does not fit."""
    from deployments.profiles import load_profile  # noqa: PLC0415  (the engines of recipes)
    from tasks.machine import this_machine  # noqa: PLC0415
    from tasks.planner import plans, refuse_what_does_not_fit  # noqa: PLC0415

    chosen = load_profile(profile, changes or [])
    machines = (
        this_machine(chosen.runtime, anew=True) if cluster == HERE else load_cluster(cluster, accelerators)
    )
    planned = plans(chosen.recipe, chosen.runtime, machines)
    found = [each for each in planned if stage.lower() in each.workload.stage.lower()]
    if not found:
        names = ", ".join(each.workload.stage for each in planned)
        raise ConfigError(f"--stage {stage!r}: no stage is called so; there are {names}")
    if as_json:
        print(json.dumps([each.model_dump(mode="json") for each in found], indent=2))
    else:
        show(found)
    refuse_what_does_not_fit(found)


def load_cluster(name: str, accelerators: int | None) -> Cluster:
    """Load a cluster by name or path. Raises ConfigError naming file and field."""
    from deployments.profiles import changed  # noqa: PLC0415

    path = Path(name) if name.endswith((".yaml", ".yml")) else CLUSTERS / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(found.stem for found in CLUSTERS.glob("*.yaml")))
        raise ConfigError(
            f"{path}: no such cluster; there are {names}, {HERE}, or give the path of a YAML file"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected fields such as memory_bytes and peak_flops, found {values!r}")
    return changed(Cluster, values, [f"accelerators={accelerators}"] if accelerators else [], str(path))


def show(planned: Sequence[Plan]) -> None:
    """Print costs, memory by component, and remarks."""
    from tasks.planner import cost_rows, gigabytes, memory_rows, remarks  # noqa: PLC0415

    capacity = gigabytes(planned[0].capacity_bytes)
    console.print(table("Cost, at most", cost_rows(planned)))
    console.print(table(f"Memory of a rank, {capacity} GB", memory_rows(planned)))
    for line in remarks(planned):
        console.print(line, style="dim", highlight=False)


def table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return rows as a table; the first has the titles of the columns."""
    made = Table("stage", title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0][1:]:
        made.add_column(name, justify="right")
    for row in rows[1:]:
        made.add_row(*row)
    return made
