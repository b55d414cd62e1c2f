"""Ctrl-C and SIGTERM, never lost: what a signal raises in a destructor or a callback is dropped by Python."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_asked = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt, again at the next `check` when it was dropped.

    Elsewhere than in the main thread nothing changes. In a worker's flow run SIGTERM ends as what Prefect makes of it,
    which tells whether the run was cancelled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        theirs = before[signal.SIGTERM]
        if "PREFECT__FLOW_RUN_ID" in os.environ and callable(theirs) and theirs != _interrupt:
            theirs(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _interrupt not in before.values():
            _asked.clear()


def check() -> None:
    """Raise KeyboardInterrupt when this process was asked to end."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _asked.set()
    raise KeyboardInterrupt
