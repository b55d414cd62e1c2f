"""Dialogs and supervised fine-tuning. Llama 2 section 3.1."""

from prefect import flow

from tasks.dialogs import dialogs as dialogs_task
from tasks.jobs import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.own import chosen_dialogs, chosen_model
from tasks.recipes import DialogsRecipe, FineTuneRecipe
from tasks.runtime import Runtime
from tasks.sft import sft as sft_task


@flow(name="dialogs", flow_run_name="dialogs, seed {seed}")
def dialogs(recipe: DialogsRecipe = DialogsRecipe(), seed: int = 0, runtime: Runtime = Runtime()) -> str:
    """Write demonstrations and prompts."""
    return dialogs_task(recipe, seed, runtime)


@flow(name="sft", flow_run_name="{label}, seed {seed}")
def sft(
    recipe: FineTuneRecipe = FineTuneRecipe(),
    base: str = "base",
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
    label: str = "SFT",
) -> str:
    """Fine-tune the base model on demonstrations, once their loss masks are found right."""
    lint_loss_masks(Job(label, "chat", recipe, seed, {"base": base, "dialogs": dialogs}), runtime)
    return sft_task(recipe, base, dialogs, seed, runtime, label)


@flow(name="finetune", flow_run_name="fine-tuning, seed {seed}")
def finetune(
    model: str,
    dialogs: str = "",
    recipe: FineTuneRecipe = FineTuneRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Fine-tune a model, an artifact or a path, on dialogs of one's own, or else on the starter's."""
    talk = chosen_dialogs(dialogs, runtime) if dialogs else dialogs_task(DialogsRecipe(), seed, runtime)
    return sft(recipe, chosen_model(model, runtime), talk, seed, runtime, "fine-tuning")
