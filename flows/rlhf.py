"""Iterative RLHF: rejection sampling, then PPO, in rounds (Llama 2 section 3.2.3); and DPO, to compare with."""

from prefect import flow

from flows.evaluate import evaluate
from flows.reward import comparisons, reward, reward_report
from flows.sft import sft
from llama2_core.seeding import derive_seed
from tasks.dpo import dpo as dpo_task
from tasks.dpo import dpo_job
from tasks.dpo_recipe import DPORecipe
from tasks.jobs import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.people import await_annotators
from tasks.pipeline import finish_run, tracked_run
from tasks.ppo import ppo as ppo_task
from tasks.ppo import ppo_job
from tasks.recipes import ComparisonsRecipe, FineTuneRecipe, PPORecipe, RejectionRecipe
from tasks.rejection import rejection_fine_tune, rejection_samples
from tasks.rounds import at_best_temperature, champion_of, round_gate, samples_of, start_of, temperature_sweep
from tasks.rounds_recipe import Round, RoundRecipe, RoundsRecipe, Start
from tasks.rounds_report import rounds_report
from tasks.runtime import Runtime


@flow(name="rejection", flow_run_name="rejection sampling, seed {seed}")
def rejection(
    base: str,
    chat: str,
    helpfulness: str,
    safety: str,
    recipe: RejectionRecipe = RejectionRecipe(),
    fine_tune: FineTuneRecipe = FineTuneRecipe(),
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
    earlier: list[str] | None = None,
) -> str:
    """Sample K answers a prompt from the chat model and fine-tune the base model on the best.

    What `earlier` samples chose is scored anew and competes, so that no skill of an earlier round is forgotten.
    """
    samples = rejection_samples(
        recipe, chat, helpfulness, safety, dialogs, seed, runtime, earlier=earlier or ()
    )
    parents = {"base": base, "samples": samples}
    lint_loss_masks(Job("rejection sampling", "chat", fine_tune, seed, parents), runtime)
    return rejection_fine_tune(fine_tune, base, samples, seed, runtime)


@flow(name="distill", flow_run_name="distillation, seed {seed}")
def distill(
    base: str,
    samples: str,
    recipe: FineTuneRecipe = FineTuneRecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Fine-tune a base model on the best samples of a larger one, as Llama 2's smaller models were.

    Samples are text: the base model may have a tokenizer of its own.
    """
    parents = {"base": base, "samples": samples}
    lint_loss_masks(Job("distillation", "chat", recipe, seed, parents), runtime)
    return rejection_fine_tune(recipe, base, samples, seed, runtime, "distillation")


@flow(name="ppo", flow_run_name="ppo, seed {seed}")
def ppo(
    chat: str,
    helpfulness: str,
    safety: str,
    recipe: PPORecipe = PPORecipe(),
    dialogs: str = "dialogs",
    seed: int = 0,
    runtime: Runtime = Runtime(),
    independent: str | None = None,
) -> str:
    """Improve a chat model by PPO, once its prompts are found right; an independent reward model may watch."""
    lint_loss_masks(ppo_job(recipe, chat, helpfulness, safety, dialogs, seed, independent), runtime)
    return ppo_task(recipe, chat, helpfulness, safety, dialogs, seed, runtime, independent)


@flow(name="dpo", flow_run_name="dpo, seed {seed}")
def dpo(
    chat: str,
    comparisons: list[str],
    recipe: DPORecipe = DPORecipe(),
    seed: int = 0,
    runtime: Runtime = Runtime(),
) -> str:
    """Improve a chat model on batches of comparisons by DPO, once they are found right."""
    lint_loss_masks(dpo_job(recipe, chat, comparisons, seed), runtime)
    return dpo_task(recipe, chat, comparisons, seed, runtime)


CANDIDATES = ("rejection", "ppo")
"""Stages of a round whose models may become champion."""


@flow(name="rlhf", flow_run_name="RLHF in rounds, seed {recipe.seed}")
def rlhf(recipe: RoundsRecipe = RoundsRecipe(), runtime: Runtime = Runtime()) -> str:
    """Improve a chat model round by round, each from the last champion; return the path of the report."""
    base, chat, dialogs = start_of(recipe, runtime)
    with tracked_run(recipe, runtime) as tracked:
        variant_seed = derive_seed(recipe.seed, "sft variant")
        variant = sft(recipe.variant, base, dialogs, variant_seed, tracked, "SFT variant")
        standard = evaluate(chat, "sft", recipe.evaluation, dialogs, recipe.seed, tracked)
        rounds: list[Round] = []
        newest, previous = chat, variant
        for number in range(1, recipe.rounds + 1):
            batch = batch_of(recipe.comparisons, number)
            await_annotators(batch, newest, previous, dialogs, recipe.seed, tracked)
            start = {"base": base, "chat": chat, "dialogs": dialogs, "newest": newest, "previous": previous}
            made = rlhf_round(number, start, standard, rounds, recipe, tracked)
            newest, previous = made.next_pair(newest)
            rounds.append(made)
        page, stages = rounds_report(recipe, standard, rounds, tracked)
        finish_run(stages, page, tracked)
        return page


@flow(name="rlhf round", flow_run_name="V{number}")
def rlhf_round(
    number: int,
    start: dict[str, str],
    standard: str,
    earlier: list[Round],
    recipe: RoundsRecipe = RoundsRecipe(),
    runtime: Runtime = Runtime(),
) -> Round:
    """Compare, then improve on the newest model.

    `start` names base, chat, dialogs, newest and previous; `standard` is the
    evaluation of the chat model. Samples and rollouts draw anew each round, held-out prompts are the same in all.
    """

    def compared(batch: ComparisonsRecipe) -> str:
        models = (start["newest"], start["previous"])
        return comparisons(*models, batch_of(batch, number), start["dialogs"], recipe.seed, runtime)

    last = earlier[-1] if earlier else None
    begun = Start(
        number=number,
        **{role: name for role, name in start.items() if role != "previous"},
        batches=[*(made.comparisons for made in earlier), compared(recipe.comparisons)],
        judges={"helpfulness": last.helpfulness, "safety": last.safety} if last else {},
        samples=[made.samples for made in earlier],
        standard=standard,
        standing=last.standing if last else standard,
        watched=compared(recipe.independent) if recipe.independent and number >= recipe.ppo_from else "",
    )
    return improve(begun, recipe, runtime)


def improve(start: Start, recipe: RoundRecipe, runtime: Runtime) -> Round:
    """Retrain both reward models, sample and fine-tune, from some round on PPO, examine, choose."""
    number, seed, drawn = start.number, recipe.seed, derive_seed(recipe.seed, "round", start.number)
    knowing = recipe.reward_start(start)
    judges = {
        "helpfulness": reward(knowing, start.batches, recipe.helpfulness, seed, runtime),
        "safety": reward(knowing, start.batches, recipe.safety, seed, runtime),
    }
    before = [start.judges] if start.judges else []
    report = reward_report(judges, start.batches, before, None, recipe.reward_report, number, runtime)

    sampling, sweep = recipe.rejection, ""
    if recipe.sweep:
        parents = {"chat": start.newest, **judges, "dialogs": start.dialogs}
        sweep = temperature_sweep(recipe.sweep, sampling, number, parents, drawn, runtime)
        sampling = at_best_temperature(sampling, sweep, runtime)
    carried = start.samples if recipe.carries_all(number) else []
    fine_tune = recipe.rejection_fine_tune
    sampled = rejection(start.base, start.newest, **judges, recipe=sampling, fine_tune=fine_tune,
                        dialogs=start.dialogs, seed=drawn, runtime=runtime, earlier=carried)  # fmt: skip
    models = {"rejection": sampled}
    if number >= recipe.ppo_from:
        watcher = None
        if start.watched:
            mixed = recipe.helpfulness.model_copy(update={"other_share": 0.5})
            watcher = reward(knowing, [start.watched], mixed, derive_seed(seed, "independent"), runtime)
        models["ppo"] = ppo(sampled, **judges, recipe=recipe.ppo, dialogs=start.dialogs, seed=drawn,
                            runtime=runtime, independent=watcher)  # fmt: skip
        if recipe.dpo:
            models["dpo"] = dpo(sampled, start.batches, recipe.dpo, drawn, runtime)
    evaluations = {
        stage: evaluate(model, f"V{number} {stage}", recipe.evaluation, start.dialogs, seed, runtime)
        for stage, model in models.items()
    }
    candidates = {stage: name for stage, name in evaluations.items() if stage in CANDIDATES}
    verdict = round_gate(recipe.gate, number, start.standard, start.standing, candidates, runtime)
    champion = champion_of(verdict, runtime)
    return Round(
        number=number,
        comparisons=start.batches[-1],
        **judges,
        reward_report=report,
        sweep=sweep,
        samples=samples_of(sampled, runtime),
        models=models,
        evaluations=evaluations,
        verdict=verdict,
        champion=models.get(champion, start.newest),
        standing=evaluations.get(champion, start.standing),
    )


def batch_of(recipe: ComparisonsRecipe, number: int) -> ComparisonsRecipe:
    """Return the comparisons of a round, under a name of their own."""
    return recipe.model_copy(update={"batch": f"{recipe.batch}-{number}"})
