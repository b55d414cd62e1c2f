"""Ghost Attention, and the perception of time. Llama 2 section 3.3."""

from prefect import flow

from tasks.adapt import start
from tasks.ghost import attention, ghost_dialogs, retention
from tasks.ghost_recipe import GhostAttentionRecipe, TemporalRecipe
from tasks.ghost_report import ghost_report, temporal_report
from tasks.instructions import constraints, instructed_dialogs
from tasks.loss_mask_linter import lint_loss_masks
from tasks.own import chosen_dialogs, chosen_model
from tasks.recipes import FineTuneRecipe
from tasks.runtime import Runtime
from tasks.sft import fine_tune, lesson_job
from tasks.temporal import event_dialogs, temporal_perception

ORDINARY = "dialogs ordinary"
"""Their role: what has the role "dialogs" alone is the SFT model."""


@flow(name="ghost attention", flow_run_name="ghost attention, seed {seed}")
def ghost_attention(
    model: str = "base",
    dialogs: str = "dialogs",
    recipe: GhostAttentionRecipe = GhostAttentionRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, str]:
    """Teach a model that its first instruction holds; `model` and `dialogs` are paths or artifacts.

    Return the chat models without and with it, and the report on both.
    """
    talk = chosen_dialogs(dialogs, runtime)
    began = start(recipe.start, chosen_model(model, runtime), "", runtime)
    about = constraints(recipe.constraints, began, seed, runtime)
    lessons, said = {ORDINARY: talk} if recipe.ordinary else {}, talk
    if recipe.instructed:
        said = instructed_dialogs(recipe.instructed, about, seed, runtime)
        lessons["dialogs with instructions"] = said
    chat = (
        learned("SFT with instructions", recipe.sft, began, lessons, seed, runtime) if recipe.sft else began
    )
    ghosts = ghost_dialogs(recipe.ghost, chat, about, said, seed, runtime)
    lessons["ghost"] = ghosts
    taught = learned("ghost attention", recipe.fine_tune, chat, lessons, seed, runtime)

    repeated = recipe.retention.model_copy(update={"every_turn": True})
    kept = {
        label: retention(how, label, of, about, said, seed, runtime)
        for label, how, of in (
            ("without", recipe.retention, chat),
            ("with", recipe.retention, taught),
            ("without, told every turn", repeated, chat),
        )
    }
    seen = attention(recipe.attention, chat, taught, kept["with"], runtime)
    return {"without": chat, "with": taught, "report": ghost_report(kept, seen, runtime)}


@flow(name="temporal perception", flow_run_name="temporal perception, seed {seed}")
def temporal(
    model: str = "base",
    dialogs: str = "dialogs",
    recipe: TemporalRecipe = TemporalRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, str]:
    """Teach a model that what it knows depends on the date; return the models before and after, and the report."""
    began = start(recipe.start, chosen_model(model, runtime), "", runtime)
    lessons = {ORDINARY: chosen_dialogs(dialogs, runtime)} if recipe.ordinary else {}
    before = began
    if recipe.dated.undated:
        lessons["dialogs without dates"] = event_dialogs(recipe.dated, "undated", seed, runtime)
        before = learned("SFT with events", recipe.fine_tune, began, lessons, seed, runtime)
    lessons["dialogs with dates"] = event_dialogs(recipe.dated, "dated", seed, runtime)
    after = learned("SFT with dates", recipe.fine_tune, began, lessons, seed, runtime)
    seen = {
        label: temporal_perception(recipe, label, of, seed, runtime)
        for label, of in (("before", before), ("after", after))
    }
    return {"before": before, "after": after, "report": temporal_report(seen, runtime)}


def learned(
    label: str, recipe: FineTuneRecipe, base: str, lessons: dict[str, str], seed: int, runtime: Runtime
) -> str:
    """Fine-tune once the loss masks of all lessons are found right."""
    job = lesson_job(label, recipe, base, lessons, seed, runtime)
    lint_loss_masks(job, runtime)
    return fine_tune(job, runtime)
