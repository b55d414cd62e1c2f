"""A trained model learns another language or field: vocabulary, continued pretraining, fine-tuning, export."""

from pathlib import Path

from prefect import flow

from flows.corpus import corpus, tokenizer, tokens
from flows.sft import sft
from tasks.adapt import adaptation, continued, export, start
from tasks.adapt_recipe import AdaptRecipe
from tasks.jobs import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.own import own_dialogs, own_model
from tasks.runtime import Runtime


@flow(name="adapt", flow_run_name="adapt, seed {seed}")
def adapt(
    model: Path,
    dialogs: Path,
    recipe: AdaptRecipe = AdaptRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, str]:
    """Return what was made: start, base, chat, adaptation and an export a format."""
    talk = own_dialogs(dialogs, runtime)
    imported = own_model(model, runtime)
    documents = corpus(recipe.corpus, runtime)
    added = tokenizer(recipe.vocabulary, documents, runtime) if recipe.vocabulary else ""
    began = start(recipe.start, imported, added, runtime)
    lint_loss_masks(Job("fine-tuning", "chat", recipe.sft, seed, {"base": began, "dialogs": talk}), runtime)
    shards = tokens(recipe.tokens, documents, began, seed, runtime, recipe.corpus.weights)
    base = continued(recipe.pretrain, began, shards, seed, runtime)
    models = {"imported": imported, "start": began, "continued": base}
    measured = adaptation(recipe.tokens, models, documents, seed, runtime)
    chat = sft(recipe.sft, base, talk, seed, runtime, "fine-tuning")
    exports = {form: export(chat, form, runtime) for form in recipe.export}
    return {**models, "adaptation": measured, "chat": chat, **exports}
