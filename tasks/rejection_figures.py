"""What samples are worth, against their number and against temperature. Llama 2 Figures 7 and 8."""

from typing import Any

from llama2_core.rlhf.rejection import Curve
from tasks.rendering import markdown_table
from tasks.report_figures import Figure, curve_figure

MEASURES = ("maximum", "median")


def draw_curves(reward_curve: Curve, temperature_curve: Curve) -> list[Figure]:
    """Return the figures."""
    by_number = {name: [(row["n"], row[name]) for row in reward_curve] for name in MEASURES}
    by_temperature = {
        f"{name} of {n:g}": [(row["temperature"], row[name]) for row in temperature_curve if row["n"] == n]
        for name, n in _lines(temperature_curve)
    }
    return [
        Figure(
            "best-of-n",
            "Reward of the best of N samples (Llama 2 Figure 7)",
            curve_figure(by_number, "N samples", "mean reward"),
        ),
        Figure(
            "best-of-n-by-temperature",
            "Reward of the best of N samples by temperature (Llama 2 Figure 8)",
            curve_figure(by_temperature, "temperature", "mean reward"),
        ),
    ]


def _lines(curve: Curve) -> list[tuple[str, float]]:
    """Return which lines are drawn: the maximum of the three largest N, the median of the largest."""
    counts = sorted({row["n"] for row in curve}, reverse=True)
    return [*(("maximum", n) for n in counts[:3] if n > 1), ("median", counts[0])]


def curve_tables(summary: dict[str, Any]) -> str:
    """Return both curves, and what was chosen, as Markdown."""
    by_number = [["N samples", *MEASURES]]
    by_number += [[f"{row['n']:g}", *_rewards(row)] for row in summary["reward_curve"]]
    by_temperature = [["temperature", "N samples", *MEASURES]]
    by_temperature += [
        [f"{row['temperature']:g}", f"{row['n']:g}", *_rewards(row)] for row in summary["temperature_curve"]
    ]
    return (
        f"## Mean reward of {summary['prompts']:,} prompts\n\n{markdown_table(by_number)}\n\n"
        f"Best temperature: {summary['best_temperature']:g}.\n\n{markdown_table(by_temperature)}\n\n"
        f"{summary['samples']:,} samples, {summary['distinct']:,} of them distinct; {summary['lessons']:,} lessons, "
        f"{summary['lessons_carried_over']:,} of them from earlier rounds.\n"
    )


def _rewards(row: dict[str, float]) -> list[str]:
    return [f"{row[name]:.3f}" for name in MEASURES]
