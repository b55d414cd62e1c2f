"""Small charts as inline SVG."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2", "#65a30d", "#db2777")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llama2",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
}
BARS_LABELLED = 30
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """A chart under its title; `name` is its file's."""

    name: str
    title: str
    svg: Markup


def pick(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of the rows that have the value."""
    return [(row["step"], row[name]) for row in rows if name in row]


def curve_figure(curves: Mapping[str, Points], x: str, y: str) -> Markup:
    """Return a line chart."""
    with _drawing(x, y) as drawing:
        for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
            marker = "o" if len(points) < 12 else None
            drawing.axes.plot(
                [p[0] for p in points], [p[1] for p in points], label=name, color=colour, marker=marker, ms=3
            )
    return drawing.svg


def bar_figure(bars: Mapping[str, Mapping[str, float]], x: str, y: str, log: bool = False) -> Markup:
    """Return a bar chart: series -> label -> height, the labels of all series in the order of the first."""
    labels = list(dict.fromkeys(label for heights in bars.values() for label in heights))
    width = 0.8 / len(bars)
    with _drawing(x, y) as drawing:
        for number, ((name, heights), colour) in enumerate(zip(bars.items(), COLOURS, strict=False)):
            places = np.arange(len(labels)) + width * (number - (len(bars) - 1) / 2)
            drawing.axes.bar(
                places, [heights.get(label, 0) for label in labels], width, label=name, color=colour
            )
        shown = range(0, len(labels), 1 + len(labels) // BARS_LABELLED)
        few = len(labels) <= 4
        if few:
            drawing.axes.margins(y=0.35)  # the legend's room
        drawing.axes.set_xticks(
            shown, [labels[place] for place in shown], rotation=0 if few else 90, fontsize=8 if few else 7
        )
        drawing.axes.grid(visible=False, axis="x")
        if log:
            drawing.axes.set_yscale("log")
    return drawing.svg


def map_figure(maps: Mapping[str, Sequence[Sequence[float]]], x: str, y: str) -> Markup:
    """Return matrices of values from 0 to 1 side by side under their names, the darker the larger."""
    with _drawing(x, *[y] * len(maps), height=2.8 * len(maps)) as drawing:
        for axes, (name, values) in zip(drawing.panels, maps.items(), strict=True):
            axes.imshow(np.array(values), cmap="Blues", vmin=0, vmax=1, rasterized=True)
            axes.set_title(name, fontsize=10)
            axes.grid(visible=False)
    return drawing.svg


def interval_figure(panels: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], x: str) -> Markup:
    """Return panels side by side, places at equal distances: y label -> series -> place -> estimate with interval."""
    with _drawing(x, *panels) as drawing:
        for axes, series in zip(drawing.panels, panels.values(), strict=True):
            for (name, estimates), colour in zip(series.items(), COLOURS, strict=False):
                value, low, high = (
                    np.array([fact[end] for fact in estimates.values()]) for end in ("value", "low", "high")
                )
                axes.errorbar(
                    list(estimates),
                    value,
                    np.maximum(0, [value - low, high - value]),
                    label=name,
                    color=colour,
                    marker="o",
                    ms=3,
                    capsize=2,
                )
    return drawing.svg


@dataclass
class _Drawing:
    panels: Sequence[Any]
    svg: Markup = field(default_factory=Markup)

    @property
    def axes(self) -> Any:
        return self.panels[0]


@contextmanager
def _drawing(x: str, *ys: str, height: float = 2.8) -> Iterator[_Drawing]:
    """Yield axes to draw on, a panel a y; then their SVG is there, with legends where there are several series."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(ys), figsize=(4.8 * len(ys), height), layout="constrained", squeeze=False
        )
        drawing = _Drawing(list(grid[0]))
        yield drawing
        for axes, y in zip(drawing.panels, ys, strict=True):
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            if len(axes.get_legend_handles_labels()[0]) > 1:
                axes.legend(frameon=False, fontsize=8)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    text = drawn.getvalue()
    drawing.svg = Markup(text[text.index("<svg") :])
