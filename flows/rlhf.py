"""Iterative RLHF: rejection sampling, then PPO, in rounds (Llama 2 section 3.2.3); and DPO, to compare with."""

from prefect import flow

from flows.evaluate import evaluate
from flows.reward import comparisons, reward, reward_report
from flows.sft import sft
from llama2_core.seeding import derive_seed
from tasks.dpo import dpo as dpo_task
from tasks.dpo import dpo_job
from tasks.dpo_recipe import DPORecipe
from tasks.launch import Job
from tasks.loss_mask_linter import lint_loss_masks
from tasks.people import await_annotators
from tasks.pipeline import finish_run, tracked_run
from tasks.ppo import ppo as ppo_task
from tasks.ppo import ppo_job
from tasks.recipes import ComparisonsRecipe, FineTuneRecipe, PPORecipe, RejectionRecipe
from tasks.rejection import rejection_fine_tune, rejection_samples
from tasks.reward_recipe import RewardRecipe
from tasks.rounds import at_best_temperature, champion_of, round_gate, samples_of, start_of, temperature_sweep
from tasks.rounds_recipe import Round, RoundsRecipe
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
            if made.champion != newest:
                newest, previous = made.champion, newest
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
    """Compare, retrain both reward models, sample and fine-tune, from some round on PPO, examine, choose.

    `start` names base, chat (what reward models begin from), dialogs, newest and previous; `standard` is the
    evaluation of the chat model. Samples and rollouts draw anew each round, held-out prompts are the same in all.
    """
    base, chat, dialogs, newest, previous = (
        start[role] for role in ("base", "chat", "dialogs", "newest", "previous")
    )
    seed, drawn = recipe.seed, derive_seed(recipe.seed, "round", number)

    def compared(batch: ComparisonsRecipe) -> str:
        return comparisons(newest, previous, batch_of(batch, number), dialogs, seed, runtime)

    def judge(batches: list[str], judge_recipe: RewardRecipe, judge_seed: int = seed) -> str:
        return reward(chat, batches, judge_recipe, judge_seed, runtime)

    batch = compared(recipe.comparisons)
    batches = [*(made.comparisons for made in earlier), batch]
    judges = {
        "helpfulness": judge(batches, recipe.helpfulness),
        "safety": judge(batches, recipe.safety),
    }
    before = [{"helpfulness": made.helpfulness, "safety": made.safety} for made in earlier[-1:]]
    report = reward_report(judges, batches, before, None, recipe.reward_report, number, runtime)

    sampling, sweep = recipe.rejection, ""
    if recipe.sweep:
        parents = {"chat": newest, **judges, "dialogs": dialogs}
        sweep = temperature_sweep(recipe.sweep, sampling, number, parents, drawn, runtime)
        sampling = at_best_temperature(sampling, sweep, runtime)
    carried = [made.samples for made in earlier] if recipe.carries_all(number) else []
    fine_tune = recipe.rejection_fine_tune
    sampled = rejection(base, newest, **judges, recipe=sampling, fine_tune=fine_tune, dialogs=dialogs, seed=drawn,
                        runtime=runtime, earlier=carried)  # fmt: skip
    models = {"rejection": sampled}
    if number >= recipe.ppo_from:
        watcher = None
        if recipe.independent:
            mixed = recipe.helpfulness.model_copy(update={"other_share": 0.5})
            own = compared(recipe.independent)
            watcher = judge([own], mixed, derive_seed(seed, "independent"))
        models["ppo"] = ppo(sampled, **judges, recipe=recipe.ppo, dialogs=dialogs, seed=drawn, runtime=runtime,
                            independent=watcher)  # fmt: skip
        if recipe.dpo:
            models["dpo"] = dpo(sampled, batches, recipe.dpo, drawn, runtime)
    evaluations = {
        stage: evaluate(model, f"V{number} {stage}", recipe.evaluation, dialogs, seed, runtime)
        for stage, model in models.items()
    }
    standing = earlier[-1].standing if earlier else standard
    candidates = {stage: name for stage, name in evaluations.items() if stage in CANDIDATES}
    verdict = round_gate(recipe.gate, number, standard, standing, candidates, runtime)
    champion = champion_of(verdict, runtime)
    return Round(
        number=number,
        comparisons=batch,
        **judges,
        reward_report=report,
        sweep=sweep,
        samples=samples_of(sampled, runtime),
        models=models,
        evaluations=evaluations,
        verdict=verdict,
        champion=models.get(champion, newest),
        standing=evaluations.get(champion, standing),
    )


def batch_of(recipe: ComparisonsRecipe, number: int) -> ComparisonsRecipe:
    """Return the comparisons of a round, under a name of their own."""
    return recipe.model_copy(update={"batch": f"{recipe.batch}-{number}"})
