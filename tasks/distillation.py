"""Safety context distillation, and scores of what a model answers. Llama 2 section 4.2.4."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.jobs import Job
from tasks.launch import build
from tasks.recipes import FineTuneRecipe
from tasks.reward_report import ScoresRecipe
from tasks.runtime import Runtime
from tasks.safety_recipe import ContextDistillationRecipe


@task(
    name="distilled answers", task_run_name="answers behind {recipe.style} preprompts", cache_policy=NO_CACHE
)
def distilled_answers(
    recipe: ContextDistillationRecipe, chat: str, safety: str, prompts: str, seed: int, runtime: Runtime
) -> str:
    """Answer adversarial prompts with and without preprompts, and let the safety reward model choose."""
    parents = {"chat": chat, "safety": safety, "dialogs": prompts}
    label = f"answers behind {recipe.style} preprompts"
    return build(Job(label, "distilled", recipe, seed, parents), runtime)


def distillation_job(
    style: str,
    recipe: FineTuneRecipe,
    chat: str,
    distilled: str,
    demonstrations: str,
    seed: int,
    processes: int,
) -> Job:
    """Return the fine-tuning of a chat model on distilled answers, mixed with demonstrations."""
    parents = {"base": chat, "distilled": distilled, "dialogs": demonstrations}
    return Job(f"context distillation, {style}", "chat", recipe, seed, parents, processes=processes)


@task(name="context distillation", task_run_name="{job.label}", cache_policy=NO_CACHE)
def context_distillation(job: Job, runtime: Runtime) -> str:
    """Fine-tune on the kept answers, without their preprompts."""
    return build(job, runtime)


@task(name="answer scores", task_run_name="scores of {label}'s answers", cache_policy=NO_CACHE)
def answer_scores(label: str, evaluation: str, helpfulness: str, safety: str, runtime: Runtime) -> str:
    """Score the held-out answers of an evaluation by both reward models."""
    parents = {"evaluation": evaluation, "helpfulness": helpfulness, "safety": safety}
    return build(Job(f"scores of {label}'s answers", "answers", ScoresRecipe(), parents=parents), runtime)
