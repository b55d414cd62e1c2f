"""Batches that flows want from people: a file each, which the annotation service finds. Llama 2 section 3.2.1."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from storage.disk import atomic_write
from storage.errors import StorageError
from storage.preference_events import Id, Record

ORDERS = "orders"


class RatingOrder(Record):
    """A batch of ratings: which answers, on which scale, by how many."""

    batch: Id
    """Its name in the log."""
    sheet: str
    """The artifact with the answers, as kind/digest."""
    target: Annotated[int, Field(gt=0)]
    """Ratings wanted; then the batch is frozen."""
    raters: Annotated[int, Field(gt=0)]
    """People who rate each question."""
    placed: float
    """Seconds since 1970: the oldest is asked first."""
    flow_run: str = ""
    """The suspended flow run that goes on when the batch is frozen, if there is one."""


class Order(Record):
    """A batch: who answers, about which prompts, and what becomes of it once it is complete."""

    batch: Id
    """Its name in the log."""
    newest: str
    """One model, as kind/digest."""
    other: str
    """The model beside it."""
    temperatures: tuple[float, float]
    """Of the two."""
    dialogs: str
    """The artifact whose prompts are asked."""
    target: Annotated[int, Field(gt=0)]
    """Comparisons wanted; then the batch is frozen."""
    held_out_share: Annotated[float, Field(ge=0, le=1)]
    """Of its prompts, to test reward models."""
    most_held_out: Annotated[int, Field(ge=0)]
    """Comparisons held out at most."""
    seed: int
    """Of the draw of prompts."""
    placed: float
    """Seconds since 1970: the oldest is asked first."""
    flow_run: str = ""
    """The suspended flow run that goes on when the batch is frozen, if there is one."""


AnyOrder = Order | RatingOrder
_ORDER: TypeAdapter[AnyOrder] = TypeAdapter(AnyOrder)


def place(folder: Path, order: AnyOrder) -> Path:
    """Put an order in the preferences folder; one of the same batch stays where it stood in the line."""
    path = folder / ORDERS / f"{order.batch}.json"
    if path.exists():
        order = order.model_copy(update={"placed": _read(path).placed})
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, order.model_dump_json(indent=2).encode())
    return path


def orders(folder: Path) -> list[AnyOrder]:
    """Return all orders, oldest first. Raises StorageError naming a file that is none."""
    found = [_read(path) for path in (folder / ORDERS).glob("*.json")]
    return sorted(found, key=lambda order: (order.placed, order.batch))


def _read(path: Path) -> AnyOrder:
    try:
        return _ORDER.validate_json(path.read_bytes())
    except ValidationError as error:
        raise StorageError(
            f"{path}: {error.errors()[0]['msg']}. Delete it, and run the flow again."
        ) from error
