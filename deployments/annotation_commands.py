"""The commands that serve the annotation page, and say who may use it. Imports wait."""
# ruff: noqa: PLC0415

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deployments.doctor import port_free
from deployments.model_commands import Home, MaxTokens, model_path, registered
from deployments.services.prefect_server import HOST
from llama2_core.errors import ConfigError
from storage.artifacts import Store
from storage.errors import StorageError

if TYPE_CHECKING:
    from deployments.services.annotation.access import Access
    from deployments.services.annotation.desk import Desk
    from deployments.services.annotation.panel import Panel
    from llama2_core.config import SamplingConfig
    from storage.preference_log import PreferenceLog
    from storage.preference_orders import AnyOrder, Order, RatingOrder

app = typer.Typer()
annotators = typer.Typer(no_args_is_help=True, help="Who may use the annotation page.")
app.add_typer(annotators, name="annotators")
console = Console()
CHAT_KINDS = ("chat", "ppo", "dpo")


@app.command(
    epilog="Examples: llama2 annotate;  llama2 annotate --batch week-1;  "
    "llama2 annotate --batch week-2 --newest ppo --other http://127.0.0.1:8000/v1#my-model"
)
def annotate(
    batch: Annotated[
        str,
        typer.Option(help="Comparisons are collected under this name; without one, what flows have ordered."),
    ] = "",
    newest: Annotated[str, typer.Option(help="A model, or URL#NAME of a server with OpenAI's API.")] = "",
    other: Annotated[str, typer.Option(help="The model beside it.")] = "sft",
    temperatures: Annotated[tuple[float, float], typer.Option(help="Of the two.")] = (1.0, 0.8),
    target: Annotated[int, typer.Option(min=1, help="Comparisons that a new batch wants.")] = 1000,
    queue: Annotated[
        str, typer.Option(help="Prompts to take: an artifact, or .jsonl; none with ''.")
    ] = "dialogs",
    agreement_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the prompts taken: what another annotator has judged.")
    ] = 0.05,
    max_tokens: MaxTokens = 256,
    threads: Annotated[int, typer.Option(min=1, help="For models of this machine.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8642,
    home: Home = Path("var"),
) -> None:
    """Serve the page on which people compare answers, and a playground, until Ctrl-C.

    A batch that a flow has ordered is frozen when it is complete, and the flow goes on.
    """
    if not port_free(port):
        raise ConfigError(f"port {port} is in use: stop what listens there or choose another with --port")
    from deployments.services.annotation.orders import go_on, next_order
    from llama2_core.config import SamplingConfig
    from storage.preference_log import PreferenceLog
    from storage.preference_orders import RatingOrder
    from storage.preferences import preferences_folder

    store = Store(home / "artifacts")
    asked = Asked(batch, newest, other, temperatures, target, queue)
    sampling = SamplingConfig(max_new_tokens=max_tokens, top_p=1.0)
    with PreferenceLog(preferences_folder(store)) as log:
        if log.healed:
            console.print(
                f"[yellow]The last line of the log was torn; what was left of it is in {log.healed}.[/]"
            )
        while True:
            order = None if batch else next_order(log)
            if isinstance(order, RatingOrder):
                frozen = _serve_ratings(log, order, host, port, home)
            else:
                now = Asked.ordered(order) if order else asked
                frozen = _serve(log, now, order, sampling, agreement_share, threads, host, port, home)
            if frozen and order:
                go_on(order, console.print)


@dataclass(frozen=True)
class Asked:
    """A batch to collect: from whom, at which temperatures, how much, about what."""

    batch: str
    newest: str
    other: str
    temperatures: tuple[float, float]
    target: int
    queue: str

    @classmethod
    def ordered(cls, order: "Order") -> "Asked":
        return cls(order.batch, order.newest, order.other, order.temperatures, order.target, order.dialogs)


def _serve(
    log: "PreferenceLog",
    asked: Asked,
    order: "Order | None",
    sampling: "SamplingConfig",
    agreement_share: float,
    threads: int,
    host: str,
    port: int,
    home: Path,
) -> bool:
    """Serve one batch until Ctrl-C, or until it is frozen or another one is ordered; return whether it is frozen."""
    from deployments.services.annotation.desk import Desk
    from deployments.services.annotation.queue import read_queue
    from deployments.services.annotation.seat import Variant
    from deployments.services.speakers import Speakers

    store = Store(home / "artifacts")
    models = dict(_place(model, home) for model in (asked.newest, asked.other))
    if len(models) < 2:
        raise ConfigError("--newest and --other are the same model: a comparison wants two")
    first, second = models
    models |= {a.name: str(a.path) for a in store.artifacts() if a.kind in CHAT_KINDS} | registered(home)
    prompts = read_queue(asked.queue, store)
    batch = _open(log, asked.batch, asked.target)
    variants = (Variant(first, asked.temperatures[0]), Variant(second, asked.temperatures[1]))
    speakers = Speakers(models, threads)
    desk = Desk(log, batch, variants, speakers, prompts, sampling, agreement_share)
    try:
        return _listen(desk, order, host, port, watched=bool(order) or not asked.batch)
    finally:
        speakers.close()


def _serve_ratings(log: "PreferenceLog", order: "RatingOrder", host: str, port: int, home: Path) -> bool:
    """Serve an ordered batch of ratings until Ctrl-C, or until it is frozen; return whether it is."""
    from deployments.services.annotation.panel import Panel
    from deployments.services.annotation.ratings import read_questions

    questions = read_questions(order, Store(home / "artifacts"))
    _open(log, order.batch, order.target)
    return _listen(Panel(log, order, questions), order, host, port, watched=True)


def _listen(work: "Desk | Panel", order: "AnyOrder | None", host: str, port: int, watched: bool) -> bool:
    """Serve a batch; one that is watched, until it is frozen or another one is ordered; return whether it is frozen."""
    import uvicorn

    from deployments.services.annotation.access import Access
    from deployments.services.annotation.app import create_app
    from deployments.services.annotation.orders import Watch

    access = Access(work.log.folder)
    console.print(f"Annotate batch {work.batch} at [bold]http://{host}:{port}[/]; Ctrl-C stops.")
    if not access.annotators():
        console.print("Nobody may yet: `llama2 annotators add NAME` prints a token.")
    service = create_app(work, access, [host, HOST, "localhost"])
    server = uvicorn.Server(
        uvicorn.Config(service, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
    )

    def stop() -> None:
        server.should_exit = True

    if not watched:
        server.run()
        raise typer.Exit
    with Watch(work.log, order, stop) as watch:
        server.run()
    return watch.frozen


def _open(log: "PreferenceLog", name: str, target: int) -> str:
    """Return the batch of this name, the open one or the next, once it is open."""
    from datetime import UTC, datetime

    from storage.preference_events import BatchOpened

    known = {found.name: found for found in log.batches()}
    last = log.open_batch()
    name = name or (last.name if last else f"batch-{len(known) + 1}")
    if name not in known or not known[name].target:
        log.append(BatchOpened(id=name, target=target, time=datetime.now(UTC)))
    elif known[name].frozen:
        raise StorageError(f"Batch {name} is frozen: choose another name.")
    return name


def _place(model: str, home: Path) -> tuple[str, str]:
    """Return a model's name and where it is."""
    if model.startswith(("http://", "https://")):
        from tasks.chat_server import ChatServer

        ChatServer.parse(model)
        return model, model
    path = model_path(model, home)
    artifacts = home.absolute() / "artifacts"
    name = path.absolute().relative_to(artifacts) if path.absolute().is_relative_to(artifacts) else path
    return str(name), str(path)


@annotators.command(epilog="Example: llama2 annotators add alice")
def add(name: str, home: Home = Path("var")) -> None:
    """Add an annotator, or give one a new token; it is shown once."""
    print(_access(home).add(name))


@annotators.command()
def remove(name: str, home: Home = Path("var")) -> None:
    """Take an annotator's token away; comparisons stay."""
    _access(home).remove(name)


@annotators.command("list")
def list_(home: Home = Path("var")) -> None:
    """List the annotators."""

    print(
        json.dumps({name: about["added_at"] for name, about in _access(home).annotators().items()}, indent=2)
    )


def _access(home: Path) -> "Access":
    from deployments.services.annotation.access import Access
    from storage.preferences import preferences_folder

    return Access(preferences_folder(Store(home / "artifacts")))
