"""The report's page: HTML from the facts. Figures live in report_figures."""

from pathlib import Path

import jinja2

from tasks.report_facts import ReportFacts, accuracy_table
from tasks.report_figures import curve_figure, pick

TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def render(facts: ReportFacts) -> str:
    """Return one self-contained page: no script, no request."""
    curves = facts.curves
    figures = [
        ("Pretraining loss", curve_figure({"base": pick(curves["base"], "loss")}, "update", "nats a token")),
        (
            "Fine-tuning loss",
            curve_figure(
                {s: pick(curves[s], "loss") for s in ("sft", "rejection")}, "update", "nats a token"
            ),
        ),
        (
            "Reward models: ranking loss",
            curve_figure(
                {s: pick(c, "loss") for s, c in curves.items() if "reward" in s}, "update", "nats a pair"
            ),
        ),
        (
            "Reward of the best of N samples (Llama 2 Figure 7)",
            curve_figure(
                {
                    "maximum": [(row["n"], row["maximum"]) for row in facts.reward_curve],
                    "median": [(row["n"], row["median"]) for row in facts.reward_curve],
                },
                "N samples",
                "mean reward",
            ),
        ),
        (
            "PPO: reward",
            curve_figure(
                {
                    "rollouts": pick(curves["ppo"], "reward"),
                    "prompts set aside": pick(curves["ppo"], "held_out_reward"),
                },
                "iteration",
                "mean reward",
            ),
        ),
        (
            "PPO: distance from where it began",
            curve_figure({"KL": pick(curves["ppo"], "kl")}, "iteration", "nats"),
        ),
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(f=facts, figures=figures, accuracy=accuracy_table(facts.reward_accuracy))
