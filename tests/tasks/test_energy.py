"""Energy and carbon: by formula in numbers worked by hand, by codecarbon from counters that we write ourselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.artifacts import Manifest
from tasks.energy import Counters, account
from tasks.runtime import Runtime

JOULES_TO_KWH = 1 / 3.6e6
ROOT = Path(__file__).parents[2]
Set = Callable[[int], None]


@pytest.fixture
def set_joules(tmp_path: Path) -> Set:
    """Make a powercap folder of one package, and return what sets its counter; it overflows at 1,000 J."""
    package = tmp_path / "powercap" / "intel-rapl" / "intel-rapl:0"
    package.mkdir(parents=True)
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("1000000000\n")

    def set_joules(joules: int) -> None:
        (package / "energy_uj").write_text(f"{joules * 10**6}\n")

    set_joules(0)
    return set_joules


def test_hours_of_cores_times_power() -> None:
    energy = account({}, 1800, 7200, 0, Runtime(watts_per_core=20, pue=1.5, kg_co2_per_kwh=0.5))
    assert energy.energy_kwh == pytest.approx(0.06)  # 2 h x 20 W x 1.5
    assert energy.kg_co2 == pytest.approx(0.03)
    assert energy.energy_method == "hours of cores x 20 W"


def test_hours_of_accelerators_times_power_are_table_2s() -> None:
    """Llama 2 7B: 184,320 hours at 400 W and 31.22 t, its processors left out."""
    energy = account({}, 180 * 3600, 1e9, 1024, Runtime())
    assert energy.energy_kwh == pytest.approx(73_728)
    assert f"{energy.kg_co2 / 1000:.2f}" == "31.22"
    assert energy.energy_method == "hours of accelerators x 400 W"


def test_what_was_counted_is_not_estimated() -> None:
    runtime = Runtime(pue=2.0)
    on_processor = account({"RAPL": 0.5, "NVML": 9.0}, 3600, 3600, 0, runtime)
    assert (on_processor.energy_kwh, on_processor.energy_method) == (1.0, "RAPL by codecarbon")
    on_gpu = account({"RAPL": 0.5, "NVML": 9.0}, 3600, 3600, 1, runtime)
    assert on_gpu.energy_kwh == 19.0
    assert on_gpu.energy_method == "NVML by codecarbon + RAPL by codecarbon"
    half = account({"RAPL": 0.5, "NVML": 0.0}, 3600, 3600, 1, runtime)
    assert half.energy_kwh == pytest.approx(1.8)  # 2 x (0.5 + 0.4)
    assert half.energy_method == "RAPL by codecarbon + hours of accelerators x 400 W"


def test_several_machines_are_estimated() -> None:
    """Counters are one machine's, seconds of cores are all machines'."""
    several = Runtime(nodes=2, rendezvous="node-0:29400")
    energy = account({"RAPL": 0.5}, 3600, 7200, 0, several)
    assert energy.energy_kwh == pytest.approx(0.03)
    assert energy.energy_method == "hours of cores x 15 W"


def test_codecarbon_reads_the_counter_across_its_overflow(tmp_path: Path, set_joules: Set) -> None:
    pytest.importorskip("codecarbon")
    set_joules(900)
    with Counters(1, tmp_path / "powercap") as counters:
        set_joules(200)
    assert counters.kwh["RAPL"] == pytest.approx(300 * JOULES_TO_KWH, rel=1e-5)


def test_nothing_is_counted_where_no_counter_can_be_read(tmp_path: Path) -> None:
    with Counters(1, tmp_path) as counters:
        pass
    assert "RAPL" not in counters.kwh


WATCHED = """
import json, os, sys, tempfile
tempfile.gettempdir()  # tries out whether a file can be written
seen = []
def heard(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__" or event == "open" and arguments[2] & os.O_ACCMODE:
        seen.append([event, str(arguments)])
sys.addaudithook(heard)
from pathlib import Path
from tasks.energy import Counters
with Counters(1, Path(sys.argv[1])) as counters:
    pass
assert sys.argv[1] == "none" or "RAPL" in counters.kwh
print(json.dumps(seen))
"""


def test_counting_speaks_to_nobody_and_writes_nothing(tmp_path: Path, set_joules: Set) -> None:
    pytest.importorskip("codecarbon")
    command = [sys.executable, "-B", "-c", WATCHED, str(tmp_path / "powercap")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen = [event for event in json.loads(done.stdout) if "/dev/null" not in event[1]]
    assert seen == []


def test_a_manifest_older_than_the_counting_still_loads() -> None:
    old = {
        "kind": "base", "digest": "0", "format_version": 1, "recipe": {}, "parents": {}, "files": {},
        "created_at": "", "git_commit": "", "wall_seconds": 1, "cpu_seconds": 1, "peak_memory_bytes": 1,
        "summary": {},
    }  # fmt: skip
    assert Manifest.model_validate(old).energy_method == "not counted"
