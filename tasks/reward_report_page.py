"""The reward models' report as HTML and Markdown, from its tables. What comes from data is untrusted."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama2_core.config import GRADES
from storage.reward_tables import TABLES
from storage.schemas import read_table
from tasks import reward_report_shown as shown
from tasks.data_card_page import escaped
from tasks.rendering import render_template
from tasks.report_figures import Figure, bar_figure, curve_figure
from tasks.report_tables import Table
from tasks.reward_recipe import DOMAINS, RewardReportRecipe
from tasks.reward_report_tables import EARLIER, Rows


@dataclass(frozen=True)
class RewardReport:
    """What the report says, as text that nothing is escaped in."""

    title: str
    fit: bool
    headline: dict[str, str]
    """What is measured -> value and interval."""
    fitness: Table
    models: Table
    accuracy: Table
    grades: Table
    safety: Table
    threshold: float
    length: Table
    disagreement: Table
    drift: Table
    ablations: Table
    errors: list[dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """The tables of one report."""

    folder: Path

    def rows(self, name: str) -> Rows:
        return read_table(self.folder / f"reward_{name}.parquet", TABLES[f"reward_{name}"])

    def accuracy(self) -> shown.Measured:
        return {(row["model"], row["set"], row["part"]): row for row in self.rows("accuracy")}

    def measures(self) -> shown.Measured:
        return {(row["model"], row["set"], row["measure"]): row for row in self.rows("measures")}


def read_report(title: str, folder: Path, recipe: RewardReportRecipe) -> RewardReport:
    """Read a report from its tables."""
    found = Found(folder)
    accuracy, measures, models, bars = (
        found.accuracy(),
        found.measures(),
        found.rows("models"),
        found.rows("fitness"),
    )
    told = [row["model"] for row in models if row["role"] != "variant"]
    threshold = f"{recipe.safety_threshold:g}"
    return RewardReport(
        title=title,
        fit=all(bar["verdict"] != "failed" for bar in bars),
        headline={
            **{f"{name} model on {name}": shown.percent(accuracy[name, name, "all"]) for name in DOMAINS},
            "unsafe answers that the safety model scores below 0.5": shown.percent(
                measures["safety", "safety", "unsafe recall at 0.5"]
            ),
        },
        fitness=[shown.fitness_row(bar) for bar in bars],
        models=[shown.model_row(row) for row in models],
        accuracy=shown.accuracy_table(accuracy, told),
        grades=shown.grade_table(found.rows("calibration")),
        safety=shown.safety_table(accuracy, measures, told, threshold),
        threshold=recipe.safety_threshold,
        length=shown.length_table(measures, [*told, "annotators"]),
        disagreement=shown.disagreement_table(measures),
        drift=shown.drift_table(measures, [model for model in told if model.startswith(EARLIER)]),
        ablations=shown.ablation_table(models, accuracy, measures),
        errors=[shown.error(row) for row in found.rows("errors")],
    )


def draw(folder: Path) -> list[Figure]:
    """Return the report's charts, those of what was measured."""
    found = Found(folder)
    accuracy, models = found.accuracy(), found.rows("models")
    points: dict[str, dict[str, list[tuple[float, float]]]] = {"preference": {}, "safe": {}}
    for row in found.rows("calibration"):
        if row["of"] in points and row["model"] == row["set"]:
            points[row["of"]].setdefault(f"{row['model']} model", []).append((row["predicted"], row["value"]))
    by_grade = {
        f"{domain} model": {grade: 100 * accuracy[domain, domain, grade]["value"] for grade in GRADES}
        for domain in DOMAINS
    }
    scaling: dict[str, list[tuple[float, float]]] = {}
    for row in models:
        words = shown.name(row["model"]).split(maxsplit=3)
        if row["role"] == "variant" and words[1] == "pairs":
            series = f"{words[0]}, {row['parameters']:,} parameters"
            value = 100 * accuracy[row["model"], row["domain"], "all"]["value"]
            scaling.setdefault(series, []).append((row["pairs"], value))
    curves = {of: {**curve, "perfect": DIAGONALS[of]} for of, curve in points.items() if curve}
    figures = [
        Figure(
            "reward-grades",
            "Accuracy by grade (Llama 2 Figure 8 in shape)",
            bar_figure(by_grade, "", "% right"),
        )
    ]
    titles = {
        "preference": "How sure of a preference, and how often right",
        "safe": "Safety score, and how often safe",
    }
    for of, curve in curves.items():
        figures.append(Figure(f"reward-calibration-{of}", titles[of], curve_figure(curve, "says", "is")))
    if scaling:
        figures.append(
            Figure(
                "reward-scaling",
                "Accuracy by comparisons learned from (Llama 2 Figure 6 in shape)",
                curve_figure(scaling, "pairs", "% right"),
            )
        )
    return figures


DIAGONALS = {"preference": [(0.5, 0.5), (1.0, 1.0)], "safe": [(0.0, 0.0), (1.0, 1.0)]}


def render_html(report: RewardReport, figures: list[Figure]) -> str:
    """Return one self-contained page: no script, no request."""
    return render_template("reward_report.html", r=report, figures=figures)


def render_markdown(report: RewardReport) -> str:
    """Return the report without its charts and errors."""
    return render_template("reward_report.md", r=escaped(asdict(report)))
