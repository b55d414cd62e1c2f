"""Batches that flows have ordered, put before annotators one after the other, and closed when they are complete."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event, Thread
from uuid import UUID

from storage.preference_events import BatchFrozen
from storage.preference_log import PreferenceLog
from storage.preference_orders import AnyOrder, Order, orders

LOOK_SECONDS = 1.0


def next_order(log: PreferenceLog) -> AnyOrder | None:
    """Return the oldest order whose batch is not frozen."""
    frozen = {batch.name for batch in log.batches() if batch.frozen}
    return next((order for order in orders(log.folder) if order.batch not in frozen), None)


def freeze_if_complete(log: PreferenceLog, order: AnyOrder) -> bool:
    """Close an ordered batch that has what it wants; return whether it has."""
    made = next((batch.comparisons for batch in log.batches() if batch.name == order.batch), 0)
    if made < order.target:
        return False
    shares = order.model_dump(include={"held_out_share", "most_held_out", "seed"})
    log.append(BatchFrozen(id=order.batch, time=datetime.now(UTC), **shares))
    return True


def go_on(order: AnyOrder, say: Callable[[str], None]) -> None:
    """Tell Prefect, where its server is known, that a batch is frozen, and resume the flow run that waits for it.

    Of ratings it is not told: an automation begins rounds of RLHF with what no flow run waits for.
    """
    if "PREFECT_API_URL" in os.environ and isinstance(order, Order):
        tell_frozen(order.batch, awaited=bool(order.flow_run))
    if not order.flow_run:
        say(f"Batch {order.batch} is frozen: run the flow that ordered it again.")
        return
    from prefect.flow_runs import resume_flow_run  # noqa: PLC0415  (seconds)

    try:
        resume_flow_run(UUID(order.flow_run))
        say(f"Batch {order.batch} is frozen: its flow run goes on.")
    except (
        Exception
    ) as error:  # whatever the server says: the batch is safe, and the run can be resumed by hand
        api = os.environ.get("PREFECT_API_URL", "an unknown server")
        say(
            f"Batch {order.batch} is frozen, but its flow run at {api} was not resumed ({error}): "
            "resume it in Prefect's UI."
        )


def tell_frozen(batch: str, awaited: bool) -> None:
    """Emit the event that a batch is complete; the automation "next round" answers one that no flow run awaits."""
    from prefect.events import emit_event  # noqa: PLC0415  (seconds)

    resource = {"prefect.resource.id": f"llama2.batch.{batch}", "llama2.awaited": "yes" if awaited else "no"}
    emit_event("llama2.batch.frozen", resource)


class Watch:
    """Looks beside the service whether its batch is done, or whether one was ordered while it asks for another."""

    def __init__(self, log: PreferenceLog, order: AnyOrder | None, stop: Callable[[], None]) -> None:
        self.frozen = False
        self._log, self._order, self._stop = log, order, stop
        self._over = Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.frozen = self._order is not None and freeze_if_complete(self._log, self._order)
            if self.frozen or (self._order is None and next_order(self._log)):
                self._stop()
                return
