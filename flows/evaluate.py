"""Examination of checkpoints. Llama 2 sections 2.3 and 3.4."""

from pathlib import Path

from prefect import flow

from tasks.benchmark_recipe import BenchmarkRecipe, ContaminationRecipe
from tasks.benchmark_task import benchmarks as benchmarks_task
from tasks.contamination import contamination
from tasks.evaluate import evaluate as evaluate_task
from tasks.own import own_model
from tasks.recipes import EvaluationRecipe
from tasks.report_card import chosen_models
from tasks.report_card import report_card as report_card_task
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


@flow(name="benchmarks", flow_run_name="benchmarks of {label}")
def benchmarks(
    model: str,
    recipe: BenchmarkRecipe,
    label: str = "model",
    seed: int = 0,
    runtime: Runtime = Runtime(),
    search: ContaminationRecipe | None = ContaminationRecipe(),
) -> str:
    """Evaluate a checkpoint, or a model of any format at a path, and search its training tokens for the benchmarks."""
    artifact = own_model(Path(model), runtime) if Path(model).exists() else model
    name = benchmarks_task(recipe, artifact, label, seed, runtime)
    if search:
        contamination(search, name, label, runtime)
    return name


@flow(name="report card", flow_run_name="report card")
def report_card(models: list[str], runtime: Runtime = Runtime()) -> str:
    """Write one page on models, artifacts or paths: scores beside Llama 2's, data, costs, lineage, limits."""
    return report_card_task(chosen_models(models, runtime), runtime)
