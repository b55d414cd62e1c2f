"""The plan that a run leaves in Prefect before it starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.testing.utilities import prefect_test_harness

from llama2_core.errors import ConfigError
from tasks import machine
from tasks.machine import Speeds, this_machine
from tasks.plan import plan
from tasks.recipes import Llama2Recipe
from tasks.runtime import Runtime

SPEEDS = {
    "device": "cpu",
    "memory_bytes": 8_000_000_000,
    "memory_bytes_per_second": 8e9,
    "peak_flops": {"float32": 2e11, "bfloat16": 1e11},
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of threads of every measuring, which takes no time."""
    threads: list[int] = []

    def measure(of: int) -> bytes:
        threads.append(of)
        return Speeds.model_validate(SPEEDS).model_dump_json().encode()

    monkeypatch.setattr(machine, "_measured_apart", measure)
    return threads


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


def test_a_machine_is_measured_once_for_each_number_of_threads(measured: list[int], tmp_path: Path) -> None:
    runtime = Runtime(home=tmp_path, processes=2, watts_per_core=10)
    found = [this_machine(runtime), this_machine(runtime)]
    assert measured == [2] and found[0] == found[1]
    assert (found[0].accelerators, found[0].memory_shared_by, found[0].power_watts) == (2, 2, 20)
    this_machine(runtime.model_copy(update={"threads": 1}))
    this_machine(runtime, anew=True)
    assert measured == [2, 1, 2]


@pytest.mark.slow
def test_a_run_has_its_plan_in_prefect_and_what_does_not_fit_is_refused(
    prefect: None, measured: list[int], tmp_path: Path
) -> None:
    @flow
    def planning(runtime: Runtime) -> None:
        plan(Llama2Recipe(), runtime)

    runtime = Runtime(home=tmp_path)
    planning(runtime)
    shown = Artifact.get("plan")
    assert shown and shown.description and "of 8.00 GB" in shown.description
    assert "| PPO | 919K | 13.1M | 1.6K |" in str(shown.data)
    small = runtime.model_copy(
        update={"cluster": this_machine(runtime).model_copy(update={"memory_bytes": 100_000_000})}
    )
    with pytest.raises(
        ConfigError,
        match=r"reward model 1 does not fit: .* smallest change: all together: .* bfloat16 .8 more",
    ):
        planning(small)
    assert "(too much)" in str(getattr(Artifact.get("plan"), "data", ""))
    planning(small.model_copy(update={"start_what_does_not_fit": True}))
