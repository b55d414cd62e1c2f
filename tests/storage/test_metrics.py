"""The metric log survives kills, resumes without repeating a step, and can be followed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import DiskFull
from storage.metrics import MetricLog, Tail, read_metrics

ROOT = Path(__file__).parents[2]


def write(path: Path, steps: range, resumed_step: int = 0) -> None:
    log = MetricLog(path, resumed_step)
    for step in steps:
        log.append({"step": step, "loss": 1 / step})


def steps(rows: list[dict[str, float]]) -> list[float]:
    return [row["step"] for row in rows]


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(1, 4))
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": s, "loss": 1 / s} for s in (1, 2, 3)]
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_a_torn_last_line_is_left_out_and_healed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    os.truncate(path, path.stat().st_size - 5)
    assert steps(read_metrics(path)) == [1, 2]
    write(path, range(3, 5), resumed_step=3)
    assert steps(read_metrics(path)) == [1, 2, 3, 4]


def test_a_resumed_run_logs_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    write(path, range(5, 10), resumed_step=4)
    assert steps(read_metrics(path)) == list(range(1, 10))


# Dies at the nth write of reopening: the log of an earlier run must outlive it.
REOPENER = """
import os, signal, sys
from pathlib import Path
from storage.metrics import MetricLog
for fatal in range(1, 20):
    child = os.fork()
    if child == 0:
        left = fatal
        def count(frame, event, function):
            global left
            if event == "c_call" and function.__name__ in {"open", "write", "fsync", "replace", "close"}:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        MetricLog(Path(sys.argv[1]), 5)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(fatal)
        break
"""


def test_a_kill_while_reopening_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 6))
    done = subprocess.run(
        [sys.executable, "-c", REOPENER, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert int(done.stdout) > 3, done.stderr
    assert steps(read_metrics(path)) == [1, 2, 3, 4, 5]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "metrics.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
        log.append({"step": 1})
    os.dup2(os.open(os.devnull, os.O_WRONLY), log._file.fileno())


def test_tail_returns_only_complete_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.new_rows() == []
    with path.open("w") as file:
        file.write('{"step": 1}\n{"step": 2}\n{"st')
        file.flush()
        assert steps(tail.new_rows()) == [1, 2]
        assert tail.new_rows() == []
        file.write('ep": 3}\n')
        file.flush()
        assert steps(tail.new_rows()) == [3]


def test_tail_outlives_a_log_that_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    write(path, range(1, 8))
    assert steps(tail.new_rows()) == list(range(1, 8))
    write(path, range(5, 7), resumed_step=4)
    assert tail.new_rows() == []
    write(path, range(7, 10), resumed_step=6)
    assert steps(tail.new_rows()) == [8, 9]


def test_tail_of_a_resumed_parent_skips_what_was_already_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    assert steps(Tail(path, seen_step=5).new_rows()) == [6, 7]
