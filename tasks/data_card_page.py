"""A data card from a corpus and its analysis: facts, HTML, Markdown. Tables live in data_card_tables.

All that comes from a corpus is untrusted: HTML escapes it in the template, Markdown before.
"""

import html
import re
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from llama2_core.data.demographics import PAPER_LANGUAGES
from storage.analysis import TABLES
from storage.artifacts import Artifact
from storage.schemas import QUARANTINED, read_rows
from tasks import data_card_tables as tables
from tasks.recipes import DataCardRecipe
from tasks.rendering import render_template
from tasks.report_figures import Figure, bar_figure
from tasks.report_tables import Table

CLUSTERS_SHOWN, PLACES_SHOWN, LANGUAGES_DRAWN = 10, 20, 40
TOXIC = 0.5


@dataclass(frozen=True)
class DataCard:
    """What a card says, as text that nothing is escaped in."""

    corpus: str
    tokens: str
    """Of the artifact; "" without one."""
    headline: dict[str, str]
    """What is counted -> how many."""
    origins: Table
    counts: Table
    languages: Table
    rarer_languages: int
    drops: list[dict[str, Any]]
    duplicates: dict[str, int]
    """How many "documents" repeat others, and in how many "clusters"."""
    clusters: Table
    changes: Table
    toxicity: dict[str, Any]
    """Documents "measured", "share" of them that score TOXIC or more, "scorer"; empty if not measured."""
    demographics: bool
    """Whether they were measured."""
    pronouns: Table
    identities: Table
    quarantined: int
    places: Table
    recipe: str
    """YAML."""


def read_card(corpus: Artifact, tokens: Artifact | None, folder: Path, recipe: DataCardRecipe) -> DataCard:
    """Read a card from the tables that `storage.analysis.analyse` left in a folder."""
    summary, built_by = corpus.summary, corpus.manifest.recipe
    read, kept = summary["documents_read"], summary["documents_kept"]
    found = {name: _read(folder, name) for name in TABLES if name not in ("clusters", "duplicates")}
    languages = tables.language_table(found["languages"], recipe.languages_from)
    places = read_rows(corpus.file("quarantined.parquet"), QUARANTINED)
    mix = tokens.summary.get("tokens") if tokens else None
    return DataCard(
        corpus=corpus.full_name,
        tokens=tokens.full_name if tokens else "",
        headline={
            "documents read": tables.number(read),
            "documents kept": tables.number(kept),
            "characters kept": tables.number(summary["characters_kept"]),
            "tokens in the mix": tables.number(mix),
        },
        origins=tables.origin_table(built_by["sources"]),
        counts=tables.count_table(found["sources"]),
        languages=languages,
        rarer_languages=len(found["languages"]) - len(languages),
        drops=tables.drop_table(found["drops"], found["examples"], read),
        duplicates={"documents": _count(folder, "duplicates"), "clusters": _count(folder, "clusters")},
        clusters=tables.cluster_table(_read(folder, "clusters", CLUSTERS_SHOWN)),
        changes=tables.change_table(found["changes"], kept),
        toxicity=_toxicity(found["toxicity"], built_by),
        demographics=built_by["demographics"],
        pronouns=tables.pronoun_table(found["pronouns"]),
        identities=tables.identity_table(found["identities"]),
        quarantined=summary["quarantined"],
        places=list(islice(places, PLACES_SHOWN)),
        recipe=yaml.safe_dump(built_by, sort_keys=False, allow_unicode=True),
    )


def draw(folder: Path) -> list[Figure]:
    """Return the card's charts, those of what was found."""
    languages = {row["language"]: 100 * row["share"] for row in _read(folder, "languages", LANGUAGES_DRAWN)}
    toxicity = {f"{row['score']:.2f}": row["documents"] for row in _read(folder, "toxicity")}
    similarities = {f"{row['similarity']:.3f}": row["documents"] for row in _read(folder, "similarities")}
    both = {"this corpus": languages, "Llama 2": PAPER_LANGUAGES}
    charts = [
        ("languages", "Languages beside Llama 2's", both, "language", "% of documents", True),
        ("toxicity", "Documents by toxicity", {"": toxicity}, "score from", "documents", True),
        (
            "similarities",
            "Near duplicates",
            {"": similarities},
            "estimated Jaccard similarity",
            "documents",
            False,
        ),
    ]
    return [
        Figure(name, title, bar_figure(bars, x, y, log))
        for name, title, bars, x, y, log in charts
        if any(bars.values())
    ]


def render_html(card: DataCard, figures: list[Figure]) -> str:
    """Return one self-contained page: no script, no request."""
    return render_template("data_card.html", card=card, figures=figures)


def render_markdown(card: DataCard) -> str:
    """Return the card without its charts and with one example a reason."""
    recipe = html.escape(card.recipe, quote=False)  # for <pre>, where no Markdown is read
    facts = asdict(card) | {"drops": tables.drop_lines(card.drops)}
    return render_template("data_card.md", card=escaped(facts) | {"recipe": recipe})


def escaped(value: Any) -> Any:
    """Return texts, in lists and dicts too, that Markdown shows as they are, on one line, in a table too."""
    match value:
        case str():
            line = " ".join(html.escape(value, quote=False).split())
            return re.sub(r"[\\`*_\[\]|~$#]", r"\\\g<0>", line)
        case list():
            return [escaped(item) for item in value]
        case dict():
            return {key: escaped(item) for key, item in value.items()}
        case _:
            return value


def _toxicity(rows: tables.Rows, built_by: dict[str, Any]) -> dict[str, Any]:
    if not rows:
        return {}
    toxic = sum(row["share"] for row in rows if row["score"] >= TOXIC)
    measured = sum(row["documents"] for row in rows)
    scorer = built_by["toxicity"]["scorer"]["kind"]
    return {"measured": measured, "share": toxic, "scorer": scorer}


def _read(folder: Path, name: str, limit: int | None = None) -> list[dict[str, Any]]:
    return list(islice(read_rows(folder / f"{name}.parquet", TABLES[name]), limit))


def _count(folder: Path, name: str) -> int:
    return pq.read_metadata(folder / f"{name}.parquet").num_rows
