"""Small line charts as inline SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llama2",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
}
Points = Sequence[tuple[float, float]]


def pick(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of the rows that have the value."""
    return [(row["step"], row[name]) for row in rows if name in row]


def curve_figure(curves: Mapping[str, Points], x: str, y: str) -> Markup:
    """Return a line chart; the legend shows when there are several lines."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.8, 2.8), layout="constrained")
        for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
            marker = "o" if len(points) < 12 else None
            axes.plot(
                [p[0] for p in points], [p[1] for p in points], label=name, color=colour, marker=marker, ms=3
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    text = drawn.getvalue()
    return Markup(text[text.index("<svg") :])
