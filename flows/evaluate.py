"""Examination of checkpoints. Llama 2 sections 2.3 and 3.4."""

from prefect import flow

from tasks.evaluate import evaluate as evaluate_task
from tasks.recipes import EvaluationRecipe
from tasks.runtime import Runtime


@flow(name="evaluate", flow_run_name="evaluate {label}")
def evaluate(
    model: str,
    label: str = "model",
    recipe: EvaluationRecipe = EvaluationRecipe(),
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Examine one checkpoint on the held-out prompts."""
    return evaluate_task(recipe, model, dialogs, label, seed, runtime)
