"""A data card's tables as text, with Llama 2's own figures beside ours (section 4.1); shares in percent."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from llama2_core.data.demographics import PAPER_IDENTITIES, PAPER_LANGUAGES, PAPER_PRONOUNS
from tasks.report_tables import Table

Rows = Sequence[Mapping[str, Any]]
TERMS_SHOWN = 5
"""Of each axis, as in Llama 2 Table 9b."""


def origin_table(sources: Rows) -> Table:
    """Return one row a source of the corpus' recipe: what it is, and whom to name for it."""
    columns = ("name", "kind", "licence", "attribution")
    return [{column: source.get(column) or "–" for column in columns} for source in sources]


def count_table(sources: Rows) -> Table:
    return [
        {
            "source": row["source"],
            "documents read": number(row["read"]),
            "kept": number(row["kept"]),
            "characters": number(row["characters"]),
            "tokens": number(row["tokens"]),
            "epochs": "–" if row["epochs"] is None else f"{row['epochs']:.2f}",
            "% of the mix": percent(row["share"]),
        }
        for row in sources
    ]


def language_table(languages: Rows, least_share: float) -> Table:
    return [
        {
            "language": row["language"],
            "documents": number(row["documents"]),
            "%": percent(row["share"]),
            "Llama 2": paper(PAPER_LANGUAGES.get(row["language"])),
        }
        for row in languages
        if row["share"] >= least_share
    ]


def drop_table(drops: Rows, examples: Rows, read: int) -> list[dict[str, Any]]:
    """Return one row a reason, each with its examples under "examples"."""
    return [
        {
            "step": drop["step"],
            "reason": drop["reason"],
            "documents": number(drop["documents"]),
            "%": percent(drop["documents"] / read),
            "examples": [
                {name: example[name] for name in ("id", "detail", "text")}
                for example in examples
                if (example["step"], example["reason"]) == (drop["step"], drop["reason"])
            ],
        }
        for drop in drops
    ]


def drop_lines(drops: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows of `drop_table` with the beginning of one example."""
    return [
        {
            **{column: value for column, value in drop.items() if column != "examples"},
            "such as": "; ".join(
                f"{example['id']}: {example['text'][:100]}" for example in drop["examples"][:1]
            ),
        }
        for drop in drops
    ]


def cluster_table(clusters: Rows) -> Table:
    return [{"kept": row["kept_id"], "documents": number(row["size"])} for row in clusters]


def change_table(changes: Rows, kept: int) -> Table:
    return [
        {
            "change": row["change"],
            "documents": number(row["documents"]),
            "%": percent(row["documents"] / kept),
        }
        for row in changes
    ]


def pronoun_table(pronouns: Rows) -> Table:
    """Return Llama 2 Table 9a: a row that is of English documents, then those that are of its documents."""
    rows, whole = [], ""
    for row in pronouns:
        group = row["group"]
        part = group not in ("gendered", "any person")
        whole = whole if part else group
        rows.append(
            {
                "pronouns": group,
                "documents": number(row["documents"]),
                "%": percent(row["share"]),
                "of documents": whole if part else "in English",
                "Llama 2": paper(PAPER_PRONOUNS[group]),
            }
        )
    return rows


def identity_table(identities: Rows) -> Table:
    """Return Llama 2 Table 9b: one row an axis, with the terms that most of its documents have."""
    rows = []
    for axis, group in groupby(identities, key=lambda row: row["axis"]):
        found = list(group)
        paper_share, paper_terms = PAPER_IDENTITIES.get(axis, (None, {}))
        shares = {row["term"]: 100 * row["share"] for row in found[:TERMS_SHOWN]}
        rows.append(
            {
                "axis": axis,
                "%": percent(found[0]["axis_share"]),
                "Llama 2": paper(paper_share),
                "its first terms, in % of its documents": _terms(shares),
                "Llama 2's": _terms(paper_terms),
            }
        )
    return rows


def _terms(percents: Mapping[str, float]) -> str:
    return ", ".join(f"{term} {share:.1f}" for term, share in percents.items()) or "–"


def number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def paper(share: float | None) -> str:
    return "–" if share is None else f"{share:.2f}"
