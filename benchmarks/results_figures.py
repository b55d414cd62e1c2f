"""Draw the figures of docs/results.md from the tables of docs/results.md: python -m benchmarks.results_figures."""

import re
from pathlib import Path

from tasks.report_figures import bar_figure

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = {
    "problems": ("word problems, greedy (n = 316)", "solved, %"),
    "unsafe": ("unsafe answers (n = 126)", "%"),
    "refused": ("harmless prompts refused (n = 574)", "%"),
    "preferred": ("side by side (n = 700), win + tie / 2", "%"),
}
"""File -> the table's first heading, and what its bars are."""


def bars(page: str, heading: str) -> dict[str, dict[str, float]]:
    """Return column -> row -> the number that its cell begins with, of the table with that heading."""
    table = page[page.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    columns, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {
        column: {row[0]: float(re.match(r"[\d.]+", row[place])[0]) for row in rows[1:]}  # type: ignore[index]
        for place, column in enumerate(columns)
        if place
    }


def figures() -> dict[str, str]:
    """Return file name -> SVG."""
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    return {
        f"{name}.svg": str(bar_figure(bars(page, heading), "", y)) for name, (heading, y) in FIGURES.items()
    }


if __name__ == "__main__":
    for name, svg in figures().items():
        (DOCS / "figures" / name).write_text(svg, encoding="utf-8")
