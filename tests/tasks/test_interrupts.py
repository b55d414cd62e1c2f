"""Ctrl-C that Python drops is raised again."""

import os
import signal

import pytest

from tasks.interrupts import check, interruptible


class Interrupted:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_in_a_destructor_is_raised_at_the_next_check() -> None:
    with interruptible(), interruptible():
        check()
        Interrupted()  # Python says that it ignores what is raised here
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            check()
    check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_interrupt_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    check()


def test_in_a_workers_flow_run_prefect_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelled(BaseException): ...

    def theirs(number: int, frame: object) -> None:
        raise Cancelled

    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1")
    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with pytest.raises(Cancelled), interruptible(), interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is theirs
        check()
    finally:
        signal.signal(signal.SIGTERM, before)
