"""The report's page: HTML from the facts. Tables live in report_tables, drawing in report_figures."""

from tasks.rejection_figures import draw_curves
from tasks.rendering import render_template
from tasks.report_facts import MODELS, ReportFacts
from tasks.report_figures import Figure, curve_figure, pick
from tasks.report_tables import accuracy_table, grade_table, safety_table


def draw(facts: ReportFacts) -> list[Figure]:
    """Return the page's charts in order."""
    curves = facts.curves
    losses = {stage: pick(curve, "loss") for stage, curve in curves.items()}
    ppo = {
        "rollouts": pick(curves["ppo"], "reward"),
        "prompts set aside": pick(curves["ppo"], "held_out_reward"),
    }
    return [
        Figure(
            "pretraining",
            "Pretraining loss",
            curve_figure({"base": losses["base"]}, "update", "nats a token"),
        ),
        Figure(
            "fine-tuning",
            "Fine-tuning loss",
            curve_figure({s: losses[s] for s in ("sft", "rejection")}, "update", "nats a token"),
        ),
        Figure(
            "reward-models",
            "Reward models: ranking loss, plus the auxiliary loss where a safety model has one",
            curve_figure({s: loss for s, loss in losses.items() if "reward" in s}, "update", "nats a pair"),
        ),
        *draw_curves(facts.reward_curve, facts.temperature_curve),
        Figure("ppo-reward", "PPO: reward", curve_figure(ppo, "iteration", "mean reward")),
        Figure(
            "ppo-kl",
            "PPO: distance from where it began",
            curve_figure(
                {"KL, sampled": pick(curves["ppo"], "kl"), "exact": pick(curves["ppo"], "kl_exact")},
                "iteration",
                "nats a response",
            ),
        ),
    ]


def render(facts: ReportFacts, figures: list[Figure]) -> str:
    """Return one self-contained page: no script, no request."""
    return render_template(
        "report.html",
        f=facts,
        figures=figures,
        models=MODELS,
        accuracy=accuracy_table(facts.reward_accuracy),
        grades=grade_table(facts.comparisons),
        safety=safety_table(facts.comparisons),
    )
