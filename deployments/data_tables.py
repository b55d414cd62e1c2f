"""How reports on a corpus look in a terminal. Ids and texts are strangers': shown as they are, no markup."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from storage.corpora import Rows
    from storage.corpus_diff import CorpusDiff
    from tasks.corpus_validation import SourceReport

EXCERPT_LINES = 6
FACTS = ("step", "reason", "detail", "kept_id", "similarity", "language", "url", "changes")
CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f]")

Shown = Iterator[Table | Text]
console = Console()


def show(parts: Iterable[Table | Text]) -> None:
    """Print parts; lines of text are left to the terminal to wrap, so that paths stay whole."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def validation(reports: "Sequence[SourceReport]", most_places: int) -> Shown:
    """Yield counts by source, the first places that cannot be read, and sources that hold nothing."""
    counts = ("source", "documents", "characters", "without_text", "duplicate_ids", "unreadable")
    yield table("Sources", [{name: getattr(report, name) for name in counts} for report in reports])
    places = [(report.source, place) for report in reports for place in report.places][:most_places]
    if places:
        yield Text("\nNot readable, by place (file:byte of .jsonl, file:row of .csv and .parquet)", "italic")
    for source, place in places:
        yield Text.assemble(
            (f"{source} ", "dim"), plain(place.place), (f" {place.reason}: ", "red"), plain(place.detail)
        )
    more = sum(sum(report.unreadable.values()) for report in reports) - len(places)
    if more:
        yield Text(f"and {more:,} more places: --all shows them")
    for report in reports:
        if not report.documents:
            yield Text(f"source {report.source} holds no document: give it files that hold text", "red")


def counts(found: "dict[str, Rows]") -> Shown:
    """Yield what became of a corpus's documents."""
    titles = {
        "sources": "Sources",
        "drops": "Dropped",
        "changes": "Changed",
        "quarantined": "Could not be read",
    }
    return (table(title, found[name]) for name, title in titles.items())


def documents(rows: "Rows") -> Shown:
    """Yield each document's id, what is known of it, and the beginning of its text."""
    for row in rows:
        yield Text.assemble(plain(row["id"], "bold"), (f"  {row['characters']:,} characters", "dim"))
        known = [
            Text.assemble((f"{_spaced(name)} ", "dim"), plain(row[name])) for name in FACTS if row.get(name)
        ]
        yield Text("  ").append_text(Text(", ").join(known))
        lines = row["text"].splitlines()[:EXCERPT_LINES]
        cut = " …" if len("\n".join(lines)) < row["characters"] else ""
        yield plain("\n".join(f"    {line}" for line in lines) + cut + "\n")


def difference(found: "CorpusDiff") -> Shown:
    """Yield the fields of the recipe, the counts and the documents that differ."""
    yield table(
        "Recipe", [{"field": path, "A": repr(a), "B": repr(b)} for path, (a, b) in found.recipe.items()]
    )
    yield table("Sources", found.sources)
    changes = [
        {
            "change": row["change"],
            "A": _rule(row["step_a"], row["reason_a"]),
            "B": _rule(row["step_b"], row["reason_b"]),
            "documents": row["documents"],
            "examples": "\n".join(row["examples"]),
        }
        for row in found.documents
    ]
    yield table("Documents that differ", changes)


def table(title: str, rows: "Rows") -> Table | Text:
    """Return rows as a table, a column a key."""
    if not rows:
        return Text(f"{title}: none")
    made = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        justify = "right" if isinstance(value, int) else "left"
        made.add_column(_spaced(name), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*map(plain, row.values()))
    return made


def plain(value: Any, style: str = "") -> Text:
    """Return a value as text, control characters spelled out: a terminal would obey them."""
    match value:
        case None:
            value = ""
        case int():
            value = f"{value:,}"
        case float():
            value = f"{value:.2f}"
        case dict():
            value = ", ".join(f"{count:,} {name}" for name, count in value.items())
        case list():
            value = ", ".join(value)
    return Text(CONTROL.sub(lambda found: repr(found[0])[1:-1], value), style)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _rule(step: str | None, reason: str | None) -> str:
    return f"{step}: {reason}" if step else ""
