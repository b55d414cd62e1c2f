"""Groups in processes of their own, under a real Prefect server."""

import os
from functools import partial
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from tasks.runtime import Runtime
from tasks.spread import spread

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
