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
from llama2_core.footprint import Memory
from llama2_core.planning import Cluster, Plan

app = typer.Typer()
console = Console()
CLUSTERS = Path(__file__).parent / "clusters"
SUMS = ("hours", "kwh", "kg_co2", "price")


@app.command(
    epilog="Examples: llama2 plan;  llama2 plan paper-7b --cluster a100-80gb --accelerators 1024;  "
    "llama2 plan mine.yaml --cluster mine-cluster.yaml --stage sft --json"
)
def plan(
    profile: Annotated[str, typer.Argument(help="A profile's name, or the path of a YAML file.")] = "laptop",
    cluster: Annotated[str, typer.Option(help="A cluster's name, or the path of a YAML file.")] = (
        "laptop-2-cores"
    ),
    accelerators: Annotated[int | None, typer.Option(min=1, help="Instead of the cluster's.")] = None,
    stage: Annotated[str, typer.Option(help="Only stages with this in their name.")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="path=value; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts for programs.")] = False,
) -> None:
    """Say what a run takes, stage by stage, before it starts; exit status 1 when a stage does not fit."""
    from deployments.profiles import load_profile  # noqa: PLC0415  (the engines of recipes)
    from tasks.planner import plans  # noqa: PLC0415

    chosen = load_profile(profile, changes or [])
    planned = plans(chosen.recipe, chosen.runtime, load_cluster(cluster, accelerators))
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
        raise ConfigError(f"{path}: no such cluster; there are {names}, or give the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected fields such as memory_bytes and peak_flops, found {values!r}")
    return changed(Cluster, values, [f"accelerators={accelerators}"] if accelerators else [], str(path))


def refuse_what_does_not_fit(planned: Sequence[Plan]) -> None:
    """Raise ConfigError for the stage that is furthest from fitting."""
    if beyond := [each for each in planned if not each.fits]:
        worst = max(beyond, key=lambda each: each.memory.total)
        largest = worst.memory.largest
        others = f" ({len(beyond) - 1} more stages do not fit either)" if len(beyond) > 1 else ""
        raise ConfigError(
            f"{worst.workload.stage} does not fit: it takes {gigabytes(worst.memory.total)} of "
            f"{gigabytes(worst.capacity_bytes)} GB, most of it {largest.replace('_', ' ')} "
            f"({gigabytes(getattr(worst.memory, largest))} GB); smallest change: {worst.change}{others}"
        )


def show(planned: Sequence[Plan]) -> None:
    """Print costs, memory by component, and what unknown sizes were taken from."""
    console.print(cost_table(planned), memory_table(planned), sep="\n")
    for each in planned:
        if each.workload.bound:
            console.print(f"{each.workload.stage}: {each.workload.bound}", style="dim", highlight=False)


def cost_table(planned: Sequence[Plan]) -> Table:
    table = _table("Cost, at most")
    for name in ("parameters", "tokens", "updates", "FLOPs", "ranks", "hours", "kWh", "kg CO2", "price"):
        table.add_column(name, justify="right")
    for each in planned:
        work = each.workload
        counts = map(short, (work.networks[0].parameters, work.tokens, work.updates))
        sums = (amount(getattr(each, name)) for name in SUMS)
        table.add_row(work.stage, *counts, f"{work.flops:.1e}", str(work.setup.ranks), *sums)
    if len(planned) > 1:
        table.add_section()
        totals = (amount(sum(getattr(each, name) for each in planned)) for name in SUMS)
        table.add_row("all", *[""] * 5, *totals, style="bold")
    return table


def memory_table(planned: Sequence[Plan]) -> Table:
    """Return bytes by component; one that no stage has is left out."""
    first = planned[0]
    table = _table(f"Memory of a rank, {gigabytes(first.capacity_bytes)} GB, {first.workload.setup.dtype}")
    names = [name for name in Memory.model_fields if any(getattr(each.memory, name) for each in planned)]
    for name in (*names, "total"):
        table.add_column(name.replace("_", " "), justify="right")
    for each in planned:
        sizes = (getattr(each.memory, name) for name in (*names, "total"))
        table.add_row(each.workload.stage, *map(gigabytes, sizes), style="" if each.fits else "red")
    return table


def _table(title: str) -> Table:
    return Table("stage", title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}"


def amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def short(count: int) -> str:
    """Return a count to three digits: 6.74B."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
