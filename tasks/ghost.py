"""Ghost Attention: dialogs, what is kept turns later, and what the models attend to. Llama 2 section 3.3."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.ghost_recipe import AttentionRecipe, GhostRecipe, RetentionRecipe
from tasks.jobs import Job
from tasks.launch import build
from tasks.runtime import Runtime


@task(name="ghost dialogs", task_run_name="ghost dialogs", cache_policy=NO_CACHE)
def ghost_dialogs(
    recipe: GhostRecipe, chat: str, constraints: str, dialogs: str, seed: int, runtime: Runtime
) -> str:
    """Sample dialogs with an instruction on every turn; `dialogs` supplies what the user says."""
    parents = {"chat": chat, "constraints": constraints, "dialogs": dialogs}
    return build(Job("ghost dialogs", "ghost", recipe, seed, parents), runtime)


@task(name="retention", task_run_name="retention {label}", cache_policy=NO_CACHE)
def retention(
    recipe: RetentionRecipe,
    label: str,
    model: str,
    constraints: str,
    dialogs: str,
    seed: int,
    runtime: Runtime,
) -> str:
    """Tell an instruction in the first turn, and look at which turns it is kept."""
    parents = {"model": model, "constraints": constraints, "dialogs": dialogs}
    return build(Job(f"retention {label}", "retention", recipe, seed, parents), runtime)


@task(name="attention", task_run_name="attention", cache_policy=NO_CACHE)
def attention(recipe: AttentionRecipe, without: str, with_: str, held: str, runtime: Runtime) -> str:
    """Measure, in dialogs held by the model with Ghost Attention, what both models attend to."""
    parents = {"without": without, "with": with_, "retention": held}
    return build(Job("attention to the instruction", "attention", recipe, parents=parents), runtime)
