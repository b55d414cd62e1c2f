"""An acknowledged comparison is on the disk, once; one process writes, anyone reads."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llama2_core.config import GRADES as CORE_GRADES
from storage.errors import StorageError, StoreBusy
from storage.preference_events import (
    GRADES,
    BatchFrozen,
    BatchOpened,
    Comparison,
    Response,
    Skip,
    Turn,
    Undo,
)
from storage.preference_log import LOG, TORN, PreferenceLog, read_events

NOW = datetime(2023, 7, 18, tzinfo=UTC)


def compared(name: str, **known: Any) -> Comparison:
    return Comparison(
        **{
            "id": name,
            "batch": "week-1",
            "annotator": "Ann Ö",
            "question": f"question-{name}",
            "prompt_id": "prompt",
            "domain": "helpfulness",
            "dialog": (Turn(role="user", content="What is 2 + 3?"),),
            "responses": (Response(text="It is 5."), Response(text='"6"\n')),
            "chosen": 0,
            "grade": "better",
            "annotator_kind": "person",
            "time": NOW,
            **known,
        }
    )


def test_grades_are_the_core_s() -> None:
    assert GRADES == CORE_GRADES


def test_events_come_back_as_written(tmp_path: Path) -> None:
    events = [
        BatchOpened(id="week-1", target=3, time=NOW),
        compared("a"),
        compared("b", annotator="Bo"),
        Skip(id="s", question="q", batch="week-1", annotator="Bo", time=NOW, reason="both the same"),
        Undo(id="b", annotator="Bo", time=NOW),
        BatchFrozen(id="week-1", time=NOW),
    ]
    with PreferenceLog(tmp_path) as log:
        assert all(map(log.append, events))
        assert not any(map(log.append, events))
        assert list(read_events(tmp_path)) == [
            e.model_copy(update={"lengths": e.lengths or stored.lengths}) if isinstance(e, Comparison) else e
            for e, stored in zip(events, read_events(tmp_path), strict=True)
        ]
    first = next(event for event in read_events(tmp_path) if isinstance(event, Comparison)).lengths
    assert first and first.unit == "words"
    assert (first.prompt, first.dialog, first.responses) == (5, 5, (3, 1))


def test_batches_know_how_far_they_are(tmp_path: Path) -> None:
    with PreferenceLog(tmp_path) as log:
        assert log.open_batch() is None
        log.append(BatchOpened(id="week-1", target=3, time=NOW))
        for name in "abc":
            log.append(compared(name))
        log.append(Undo(id="b", annotator="Ann Ö", time=NOW))
        for _ in range(2):
            assert [(b.name, b.target, b.frozen, b.comparisons) for b in log.batches()] == [
                ("week-1", 3, False, 2)
            ]
            log.close()
            log = PreferenceLog(tmp_path)
        with pytest.raises(StorageError, match="nothing named zzz"):
            log.append(Undo(id="zzz", annotator="Bo", time=NOW))
        with pytest.raises(StorageError, match="another's"):
            log.append(Undo(id="a", annotator="Bo", time=NOW))
        log.append(BatchFrozen(id="week-1", time=NOW))
        assert log.open_batch() is None
        for late in (compared("d"), Undo(id="a", annotator="Ann Ö", time=NOW)):
            with pytest.raises(StorageError, match="frozen"):
                log.append(late)
        log.append(BatchOpened(id="week-2", target=1, time=NOW))
        assert log.open_batch().name == "week-2"  # type: ignore[union-attr]
        log.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"responses": (Response(text="a"), Response(text=" a"))},
        {"responses": (Response(text="a"), Response(text=" "))},
        {"grade": None},
        {"grade": "much better"},
        {"domain": "safety"},
        {"chosen": 2},
        {"id": 'a"b'},
        {"annotator": ""},
        {"dialog": (Turn(role="assistant", content="Hi"),)},
        {"dialog": (Turn(role="user", content="Hi"), Turn(role="assistant", content="Hi"))},
        {"shown": 1},
    ],
)
def test_what_cannot_be_learned_from_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        compared("a", **wrong)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with PreferenceLog(tmp_path) as log:
        log.append(compared("a"))
        with pytest.raises(StoreBusy, match=f"process {os.getpid()}"):
            PreferenceLog(tmp_path)
        assert len(list(read_events(tmp_path))) == 1
    PreferenceLog(tmp_path).close()


@pytest.mark.parametrize("torn", [b'{"event":"compa', b"\xff" * 200_000, b"x"])
def test_a_torn_last_line_is_moved_aside(tmp_path: Path, torn: bytes) -> None:
    with PreferenceLog(tmp_path) as log:
        log.append(compared("a"))
        assert log.healed is None
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole + torn)
    assert len(list(read_events(tmp_path))) == 1
    with PreferenceLog(tmp_path) as log:
        assert log.healed and log.healed.parent.name == TORN
        assert log.healed.read_bytes() == torn
        assert (tmp_path / LOG).read_bytes() == whole
        assert log.append(compared("b"))
    assert [event.id for event in read_events(tmp_path)] == ["a", "b"]


def test_a_line_changed_from_outside_is_named(tmp_path: Path) -> None:
    with PreferenceLog(tmp_path) as log:
        log.append(compared("a"))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"event":"undo","id":"a","annotator":"Ann Ö"}\n')
    for read in (lambda: list(read_events(tmp_path)), lambda: PreferenceLog(tmp_path)):
        with pytest.raises(StorageError, match=r"log\.jsonl:2: undo\.time"):
            read()
    (tmp_path / LOG).write_text("")
    PreferenceLog(tmp_path).close()  # the failed opening left no lock


def test_a_full_disk_is_told_to_all_who_wait_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    with PreferenceLog(tmp_path) as log:
        log.append(compared("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
            with pytest.raises(StorageError, match="No space left"):
                log.append(compared("b"))
        assert [event.id for event in read_events(tmp_path)] == ["a"]
        assert log.append(compared("b"))
    assert [event.id for event in read_events(tmp_path)] == ["a", "b"]


def test_threads_share_syncs_and_each_comparison_is_written_once(tmp_path: Path, monkeypatch) -> None:
    really = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.01), really(descriptor)))
    names = [f"c-{number % 400}" for number in range(800)]
    random.Random(0).shuffle(names)
    with PreferenceLog(tmp_path) as log, ThreadPoolExecutor(32) as threads:
        fresh = list(threads.map(lambda name: log.append(compared(name)), names))
        assert log.syncs < 200
    assert sum(fresh) == 400
    assert sorted(event.id for event in read_events(tmp_path)) == sorted(set(names))


WRITER = """
import os, sys, threading
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_preference_log import compared
from storage.preference_log import PreferenceLog

def work(log, trial, thread):
    for number in range(10**9):
        log.append(compared(f"{{trial}}-{{thread}}-{{number}}"))
        os.write(1, f"{{trial}}-{{thread}}-{{number}}\\n".encode())

def write(trial):
    log = PreferenceLog(Path(sys.argv[1]))
    for thread in range(8):
        threading.Thread(target=work, args=(log, trial, thread)).start()

for trial in sys.stdin:
    child = os.fork()
    if child == 0:
        write(trial.strip())
        break
    print(child, flush=True)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.slow
def test_kill_9_fifty_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    here = Path(__file__).parent
    program = WRITER.format(root=str(here.parents[1]), tests=str(here))
    command = [sys.executable, "-c", program, str(tmp_path)]
    random_, acknowledged = random.Random(0), []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin and writers.stdout
        for trial in range(50):
            writers.stdin.write(f"{trial}\n")
            writers.stdin.flush()
            child = int(writers.stdout.readline())
            acknowledged.append(writers.stdout.readline().strip())  # it is at work
            threading.Timer(random_.uniform(0, 0.2), os.kill, [child, signal.SIGKILL]).start()
            acknowledged += [line.strip() for line in iter(writers.stdout.readline, "killed\n")]
            if trial % 2:  # also a line torn in the middle, as when the machine loses power
                with (tmp_path / LOG).open("ab") as file:
                    file.write(b'{"event":"comparison"'[: random_.randrange(1, 20)])
        writers.stdin.close()
    PreferenceLog(tmp_path).close()
    kept = [event.id for event in read_events(tmp_path)]
    print(f"{len(acknowledged):,} acknowledged, {len(kept):,} in the log")
    assert len(kept) == len(set(kept))
    assert len(acknowledged) > 200
    assert set(acknowledged) <= set(kept)
