"""Groups in processes of their own, under a real Prefect server."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from storage.errors import MissingPackage
from tasks.runtime import Runtime
from tasks.spread import WorkersLost, spread

pytestmark = pytest.mark.slow


def note(group: int, folder: Path) -> None:
    """Leave a file named by the group that holds the worker's process id."""
    if group < 0:
        raise ValueError(f"group {group} is bad")
    (folder / str(group)).write_text(str(os.getpid()))


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.mark.parametrize("workers", [1, 2])
def test_every_group_is_worked_on(workers: int, tmp_path: Path) -> None:
    runtime = Runtime(data_workers=workers)
    flow(lambda: spread("note", partial(note, folder=tmp_path), range(4), runtime), name="spread")()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    here = {path.read_text() == str(os.getpid()) for path in tmp_path.iterdir()}
    assert here == {workers == 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_group_that_fails_fails_the_whole(workers: int, tmp_path: Path) -> None:
    runtime = Runtime(data_workers=workers)
    with pytest.raises(ValueError, match="group -1 is bad"):
        flow(lambda: spread("note", partial(note, folder=tmp_path), [0, -1], runtime), name="spread")()


def die(group: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_missed() -> None:
    runtime = Runtime(data_workers=2)
    with pytest.raises(WorkersLost, match=r"die: workers do not answer \(.+ groups that are done are kept\."):
        flow(lambda: spread("die", die, range(3), runtime), name="spread")()


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(MissingPackage, match=r'pip install "llama2-pipeline\[ray\]"'):
        spread("note", note, [0], Runtime(ray_address="local"))
