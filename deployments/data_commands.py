"""The commands about a corpus: validate, build, show, diff, card. Imports wait, as in `model_commands`."""
# ruff: noqa: PLC0415

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from deployments import data_tables
from deployments.model_commands import Home
from deployments.services.flow_runs import running_flows
from storage.artifacts import Artifact, Store
from storage.disk import require_free_space

if TYPE_CHECKING:
    from tasks.corpus_recipe import CorpusRecipe

app = typer.Typer(help="A corpus of your own: check its files, build it, look into it.", no_args_is_help=True)
console = Console()
PLACES = 20

AsJson = Annotated[bool, typer.Option("--json", help="Print facts for programs.")]
Corpus = Annotated[str, typer.Argument(help='"corpus", the newest, or the beginning of a digest.')]


@app.command(
    epilog="Examples: llama2 data validate mine.yaml;  llama2 data validate texts/ 'more/*.jsonl.gz'"
)
def validate(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Profiles (.yaml), or files, folders, patterns, URLs."),
    ],
    text_field: Annotated[str, typer.Option(help="Of files; a profile says its own.")] = "text",
    url_field: Annotated[str, typer.Option(help="Of files; a profile says its own.")] = "url",
    all_places: Annotated[
        bool,
        typer.Option("--all", help=f"Every unreadable place, not the first {PLACES}; memory holds them."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every document before anything runs; exit status 1 when one is unreadable or a source has none."""
    from tasks.corpus_validation import group_bytes, plan_sources, validate_source

    most_places = sys.maxsize if all_places else PLACES
    planned = [found for recipe in _recipes(paths, text_field, url_field) for found in plan_sources(recipe)]
    reports = []
    with _progress() as bar:
        for source, groups in planned:
            line = bar.add_task(source.name, total=sum(map(group_bytes, groups)) or None)
            reports.append(validate_source(source, groups, most_places, partial(bar.advance, line)))
    facts = [asdict(report) | {"ok": report.ok} for report in reports]
    _answer(facts, data_tables.validation(reports, most_places), as_json)
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@app.command(epilog="Example: llama2 data build --profile mine.yaml --set runtime.data_workers=4")
def build(
    profile: Annotated[str, typer.Option(help="laptop, ci, or the path of a YAML file.")] = "laptop",
    changes: Annotated[list[str] | None, typer.Option("--set", help="path=value; repeatable.")] = None,
) -> None:
    """Run the recipe as far as its data: corpus, tokenizer, token shards and the data card."""
    from deployments.profiles import load_profile

    chosen = load_profile(profile, changes or [])
    home = chosen.runtime.home
    require_free_space(home, chosen.runtime.least_free_bytes)
    with running_flows(home):
        from flows.data import data

        made = data(chosen.recipe, chosen.runtime)
    console.print("\n[bold green]Done.[/]")
    for stage, name in made.items():
        page = "card.html" if stage == "card" else ""
        console.print(f"  {stage:9} {home / 'artifacts' / name / page}", soft_wrap=True, markup=False)


@app.command(
    epilog="Examples: llama2 data show;  llama2 data show corpus --drops gopher;  "
    "llama2 data show 3f2a --kept --source mine --limit 5;  llama2 data show --changed email"
)
def show(
    corpus: Corpus = "corpus",
    drops: Annotated[
        str | None, typer.Option(metavar="RULE", help="Documents dropped by steps or reasons so called.")
    ] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Documents that stayed.")] = False,
    changed: Annotated[
        str | None, typer.Option(metavar="KIND", help="Documents that stayed and were changed so.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Of this source only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most documents.")] = 20,
    home: Home = Path("var"),
    as_json: AsJson = False,
) -> None:
    """Show what became of a corpus's documents: counts, or the documents themselves, their texts cut."""
    from storage.corpora import corpus_named, counts, dropped_documents, kept_documents

    if (drops is not None) + kept + (changed is not None) > 1:
        raise typer.BadParameter("--drops, --kept and --changed exclude each other: give one of them")
    store = Store(home / "artifacts")
    artifact = corpus_named(store, corpus)
    if drops is None and changed is None and not kept:
        found = counts(store, artifact, source)
        shown = data_tables.counts(found)
    else:
        found = (
            kept_documents(store, artifact, changed, source, limit)
            if drops is None
            else dropped_documents(store, artifact, drops, source, limit)
        )
        shown = data_tables.documents(found)
    _answer(found, shown, as_json)


@app.command(epilog="Example: llama2 data diff 3f2a 91bc")
def diff(a: Corpus, b: Corpus, home: Home = Path("var"), as_json: AsJson = False) -> None:
    """Compare two corpora: recipe, counts, documents; exit status 1 when they differ in any."""
    from storage.corpora import corpus_named
    from storage.corpus_diff import corpus_diff

    store = Store(home / "artifacts")
    found = corpus_diff(store, corpus_named(store, a), corpus_named(store, b))
    _answer(asdict(found) | {"equal": found.equal}, data_tables.difference(found), as_json)
    if not found.equal:
        raise typer.Exit(1)


@app.command(epilog="Examples: llama2 data card;  llama2 data card 3f2a --markdown > card.md")
def card(
    corpus: Corpus = "corpus",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the card itself.")] = False,
    home: Home = Path("var"),
) -> None:
    """Say where a corpus's data card is, or print it; one that is not there yet is made."""
    from storage.corpora import corpus_named

    store = Store(home / "artifacts")
    parent = corpus_named(store, corpus)
    found = _made_of(store, "card", parent) or _make_card(store, parent, home)
    print(found.file("card.md").read_text() if markdown else found.file("card.html").absolute())


def _make_card(store: Store, corpus: Artifact, home: Path) -> Artifact:
    tokens = _made_of(store, "tokens", corpus)
    with redirect_stdout(sys.stderr), running_flows(home):  # only the card itself goes to a pipe
        from flows.corpus import data_card
        from tasks.runtime import Runtime

        name = data_card(_full_name(corpus), _full_name(tokens) if tokens else "", Runtime(home=home))
    return store.resolve(name)


def _made_of(store: Store, kind: str, corpus: Artifact) -> Artifact | None:
    """Return the newest artifact of a kind whose corpus this is."""
    made = (artifact for artifact in reversed(store.artifacts()) if artifact.kind == kind)
    return next((a for a in made if a.manifest.parents.get("corpus") == _full_name(corpus)), None)


def _full_name(artifact: Artifact) -> str:
    return artifact.full_name


def _recipes(paths: list[str], text_field: str, url_field: str) -> "Iterator[CorpusRecipe]":
    """Yield each profile's corpus, and one of all the files. Raises ConfigError naming file and field."""
    from deployments.profiles import load_profile
    from tasks.corpus_recipe import CorpusRecipe, FileSource

    profiles = [path for path in paths if path.endswith((".yaml", ".yml"))]
    yield from (load_profile(path, []).recipe.corpus for path in profiles)
    if files := tuple(path for path in paths if path not in profiles):
        source = FileSource(name="files", paths=files, text_field=text_field, url_field=url_field)
        yield CorpusRecipe(sources=(source,))


def _progress() -> Progress:
    screen = Console(stderr=True)
    return Progress(console=screen, transient=True, disable=not screen.is_terminal)


def _answer(facts: Any, shown: data_tables.Shown, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        data_tables.show(shown)
