"""The data card of a corpus: what it holds and what was left out, as tables and pages (sections 2.1, 4.1)."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from storage.analysis import analyse
from storage.artifacts import Artifact
from storage.disk import atomic_write
from tasks.data_card_page import draw, read_card, render_html, render_markdown
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.recipes import DataCardRecipe
from tasks.runtime import Runtime
from tasks.stage_run import tracker

HTML, MARKDOWN = "card.html", "card.md"


@task(name="data card", task_run_name="data card", cache_policy=NO_CACHE)
def data_card(corpus: str, tokens: str, runtime: Runtime) -> str:
    """Analyse a corpus and write its card; with tokens, also each source's part in the mix."""
    recipe = DataCardRecipe()
    made_from = {"corpus": find(corpus, runtime)} | ({"tokens": find(tokens, runtime)} if tokens else {})
    parents = {role: artifact.full_name for role, artifact in made_from.items()}
    name = build(
        Job("data card", "card", recipe, parents=parents),
        runtime,
        lambda directory: write_card(made_from["corpus"], made_from.get("tokens"), recipe, directory),
    )
    publish(find(name, runtime), runtime)
    return name


def write_card(
    corpus: Artifact, tokens: Artifact | None, recipe: DataCardRecipe, directory: Path
) -> dict[str, Any]:
    """Write analysis/*.parquet, card.html and card.md; return headline figures for the manifest."""
    analysis, mix = directory / "analysis", tokens.summary.get("sources", {}) if tokens else {}
    analysis.mkdir(exist_ok=True)
    analyse(corpus, mix, recipe.examples, analysis, directory / "checkpoints")
    card = read_card(corpus, tokens, analysis, recipe)
    atomic_write(directory / HTML, render_html(card, draw(analysis)).encode())
    atomic_write(directory / MARKDOWN, render_markdown(card).encode())
    return {"duplicates": card.duplicates, "toxicity": card.toxicity, "rarer_languages": card.rarer_languages}


def publish(card: Artifact, runtime: Runtime) -> None:
    """Show the card beside the stage's run in MLflow, and in Prefect."""
    tracking = tracker(runtime)
    if run_id := tracking.newest(card.digest):
        for page in (HTML, MARKDOWN):
            tracking.log_file(run_id, card.file(page))
    create_markdown_artifact(
        key="data-card",
        markdown=card.file(MARKDOWN).read_text(encoding="utf-8"),
        description="What the corpus holds",
    )
