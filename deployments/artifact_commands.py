"""The command about artifacts: those of this machine and of a remote store."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.data_commands import AsJson
from deployments.model_commands import Home
from storage.artifacts import Store
from storage.errors import ArtifactNotFound
from storage.manifest import Manifest
from storage.remote import Remote

app = typer.Typer()
console = Console()

RemoteStore = Annotated[str, typer.Option(metavar="URL", help="A remote store, as of runtime.remote_store.")]


@app.command(
    epilog="Examples: llama2 artifacts list;  llama2 artifacts lineage ppo;  llama2 artifacts show base;  "
    "llama2 artifacts list --remote s3://bucket/llama2;  llama2 artifacts fetch ppo/3f2a --remote s3://bucket/llama2"
)
def artifacts(
    action: Annotated[str, typer.Argument(help="list, show, lineage or fetch.")] = "list",
    name: Annotated[str, typer.Argument(help="kind, kind/digest, or the beginning of a digest.")] = "",
    home: Home = Path("var"),
    remote: RemoteStore = "",
    as_json: AsJson = False,
) -> None:
    """List artifacts, show one's manifest, or its ancestors; fetch one from a remote store."""
    store = Store(home / "artifacts")
    if action == "list":
        found = (
            Remote(remote).manifests() if remote else [artifact.manifest for artifact in store.artifacts()]
        )
    elif action == "show":
        found = [store.resolve(name).manifest]
    elif action == "lineage":
        found = [artifact.manifest for artifact in (*store.lineage(store.resolve(name)), store.resolve(name))]
    elif action == "fetch" and remote:
        found = [_fetch(Remote(remote), name, store)]
    else:
        raise typer.BadParameter(f"{action!r} is not list, show, lineage, or fetch with --remote")
    if as_json or action == "show":
        print(json.dumps([manifest.model_dump() for manifest in found], indent=2))
        return
    table = Table("artifact", "created", "seconds", "MB", "made from")
    for manifest in found:
        size = sum(record.bytes for record in manifest.files.values()) / 1e6
        parents = " ".join(
            f"{parent.split('/')[0]}/{parent.split('/')[1][:6]}" for parent in manifest.parents.values()
        )
        label = f"{manifest.kind}/{manifest.digest[:12]}"
        table.add_row(label, manifest.created_at[:19], f"{manifest.wall_seconds:.1f}", f"{size:.2f}", parents)
    console.print(table)


def _fetch(remote: Remote, name: str, store: Store) -> Manifest:
    """Bring the newest artifact of a kind, or that of which kind and digest begin so."""
    kind, _, prefix = name.partition("/")
    found = [m for m in remote.manifests() if m.kind == kind and m.digest.startswith(prefix)]
    if not found:
        raise ArtifactNotFound(f"No artifact {name!r} there. `llama2 artifacts list --remote URL` shows all.")
    kind, digest = found[-1].kind, found[-1].digest
    with store.building(kind, digest):
        if not store.find(kind, digest):
            remote.fetch(store, kind, digest)
    return found[-1]
