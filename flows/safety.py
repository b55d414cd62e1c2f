"""Safety fine-tuning: public prompts, context distillation, and how much safety data is enough. Llama 2 section 4.2."""

from pathlib import Path

from prefect import flow

from flows.evaluate import evaluate
from flows.sft import sft
from tasks.distillation import answer_scores, distillation_job, distilled_answers
from tasks.distillation import context_distillation as distil
from tasks.loss_mask_linter import lint_loss_masks
from tasks.recipes import EvaluationRecipe, FineTuneRecipe
from tasks.runtime import Runtime
from tasks.safety_data import preprompted, safety_share
from tasks.safety_data import safety_prompts as prompts_task
from tasks.safety_recipe import (
    ContextDistillationRecipe,
    PrepromptedRecipe,
    SafetyPromptsRecipe,
    SafetyScalingRecipe,
    SafetyShareRecipe,
)
from tasks.safety_report import distillation_report, scaling_report

STYLES = ("generic", "tailored")


@flow(name="safety prompts", flow_run_name="{recipe.format} prompts")
def safety_prompts(
    files: list[Path],
    recipe: SafetyPromptsRecipe = SafetyPromptsRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Read a public set of safety prompts, to be sampled or evaluated on in place of the starter data's."""
    return prompts_task(recipe, files, seed, runtime)


@flow(name="preprompted sft", flow_run_name="SFT with preprompts, seed {seed}")
def preprompted_sft(
    base: str = "base",
    dialogs: str = "dialogs",
    recipe: PrepromptedRecipe = PrepromptedRecipe(),
    fine_tune: FineTuneRecipe = FineTuneRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Show a model too small to read what a preprompt asks for: SFT where safe answers follow one."""
    shown = preprompted(recipe, dialogs, seed, runtime)
    return sft(fine_tune, base, shown, seed, runtime, "SFT with preprompts")


@flow(name="context distillation", flow_run_name="context distillation, seed {seed}")
def context_distillation(
    chat: str,
    helpfulness: str,
    safety: str,
    prompts: str = "dialogs",
    dialogs: str = "dialogs",
    recipe: ContextDistillationRecipe = ContextDistillationRecipe(),
    fine_tune: FineTuneRecipe = FineTuneRecipe(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, str]:
    """Distil generic and tailored preprompts into a chat model; return the models by style, and the report.

    Adversarial prompts come from `prompts`; `dialogs` has the demonstrations of helpfulness that are mixed in, and
    the held-out prompts.
    """
    helpful = safety_share(SafetyShareRecipe(share=0), dialogs, seed, runtime)
    distilled, models = {}, {}
    for style in STYLES:
        of_style = recipe.model_copy(update={"style": style})
        distilled[style] = distilled_answers(of_style, chat, safety, prompts, seed, runtime)
        job = distillation_job(style, fine_tune, chat, distilled[style], helpful, seed, runtime.processes)
        lint_loss_masks(job, runtime)
        models[style] = distil(job, runtime)
    answers = {
        label: _answers(model, label, helpfulness, safety, dialogs, evaluation, seed, runtime)
        for label, model in {"before": chat, **models}.items()
    }
    return {**models, "report": distillation_report(distilled, answers, runtime)}


@flow(name="safety scaling", flow_run_name="safety scaling, seed {seed}")
def safety_scaling(
    base: str,
    helpfulness: str,
    safety: str,
    dialogs: str = "dialogs",
    recipe: SafetyScalingRecipe = SafetyScalingRecipe(),
    fine_tune: FineTuneRecipe = FineTuneRecipe(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Fine-tune the base model on growing shares of the safety data, helpfulness data fixed; return the report."""
    shown, answers = {}, {}
    for part in (SafetyShareRecipe(share=share) for share in recipe.shares):
        label = f"{part.percent}% of the safety data"
        shown[part.percent] = safety_share(part, dialogs, seed, runtime)
        model = sft(fine_tune, base, shown[part.percent], seed, runtime, f"SFT, {label}")
        answers[part.percent] = _answers(
            model, label, helpfulness, safety, dialogs, evaluation, seed, runtime
        )
    return scaling_report(shown, answers, runtime)


def _answers(
    model: str,
    label: str,
    helpfulness: str,
    safety: str,
    dialogs: str,
    evaluation: EvaluationRecipe,
    seed: int,
    runtime: Runtime,
) -> str:
    examined = evaluate(model, label, evaluation, dialogs, seed, runtime)
    return answer_scores(label, examined, helpfulness, safety, runtime)
