"""People as annotators: a flow orders a batch, ends or is suspended, and goes on when the batch is frozen."""

import time
from contextlib import closing

from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import ConfigDict
from rich.markup import escape

from llama2_core.errors import Llama2Error
from storage.artifacts import Store
from storage.preference_orders import Order, RatingOrder, place
from storage.preferences import connect, preferences_folder
from tasks.launch import find
from tasks.progress import say
from tasks.recipes import ComparisonsRecipe, PeopleRecipe
from tasks.runtime import Runtime


class AwaitingPeople(Llama2Error):
    """A batch is not complete, or a question not answered: the flow goes on from here when it is run again."""


class Approval(RunInput):
    """A person's answer to whether a candidate becomes the champion; a form in Prefect's UI."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    approve: bool
    """Whether the candidate becomes the champion."""
    reason: str = ""
    """Why; it is kept beside the model."""


def await_annotators(
    recipe: ComparisonsRecipe, newest: str, other: str, dialogs: str, seed: int, runtime: Runtime
) -> None:
    """Return when people have completed the batch; else order it, and suspend the flow run or end it.

    A run of a deployment is suspended, so that no process waits, and resumed by the annotation service. Raises
    AwaitingPeople for any other.
    """
    if not isinstance(recipe.annotator, PeopleRecipe):
        return
    order = Order(
        batch=recipe.batch,
        newest=newest,
        other=other,
        temperatures=recipe.temperatures,
        dialogs=dialogs,
        target=recipe.prompts,
        held_out_share=recipe.held_out_share,
        most_held_out=recipe.annotator.most_held_out,
        seed=seed,
        placed=time.time(),
    )
    _await(order, f"{recipe.prompts} comparisons of {newest[:20]} and {other[:20]}", runtime)


def await_ratings(raters: int, sheet: str, runtime: Runtime) -> str:
    """Return the batch of ratings of a sheet once people have completed it. Raises as `await_annotators`."""
    found = find(sheet, runtime)
    batch = f"ratings-{found.digest[:12]}-{raters}"
    questions = found.summary["asked"]
    if questions:
        order = RatingOrder(
            batch=batch, sheet=sheet, target=questions * raters, raters=raters, placed=time.time()
        )
        _await(order, f"{raters} ratings of each of {questions} questions", runtime)
    return batch


def _await(order: Order | RatingOrder, wanted: str, runtime: Runtime) -> None:
    if is_frozen(order.batch, runtime):
        return
    run = deployed_run()
    place(preferences_folder(Store(runtime.store_root)), order.model_copy(update={"flow_run": run}))
    waits = (
        f"Batch {order.batch} waits for people: {wanted}. "
        f"`llama2 annotate` or `llama2 up` put it before them, and freeze it when it is complete."
    )
    if run:
        say(waits)
        suspend_flow_run(key=f"batch-{order.batch}")
    raise AwaitingPeople(f"{waits} Then run the same command again.")


def await_approval(question: str, key: str, command: str) -> Approval:
    """Return a person's answer, given in a form of Prefect's UI: until then the flow run is suspended.

    `question` is Markdown; a `key` is asked once a flow run. Raises AwaitingPeople where no deployment's run asks.
    """
    if not deployed_run():
        raise AwaitingPeople(f"{question}\n\n{command} --approve REASON, or --reject REASON")
    say(escape(question))
    return suspend_flow_run(wait_for_input=Approval.with_initial_data(description=question), key=key)


def deployed_run() -> str:
    """Return the id of this flow run when a deployment's, which can be suspended; else nothing."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return str(run.id) if run and run.deployment_id else ""


def is_frozen(batch: str, runtime: Runtime) -> bool:
    """Tell whether a batch of the log is complete and closed."""
    with closing(connect(Store(runtime.store_root))) as db:
        found = db.execute("SELECT frozen_at IS NOT NULL FROM batches WHERE batch = ?", [batch]).fetchone()
    return bool(found and found[0])
