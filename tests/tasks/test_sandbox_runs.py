"""What the sandbox lets pass, what it refuses to run, and the benchmarks' own solutions in it."""

import ast
import gzip
import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llama2_core.evaluation.code import mbpp_program
from tasks import sandbox, sandboxed
from tasks.sandbox import SandboxMissing, Verdict, available, run, run_all

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_isolation = pytest.mark.skipif(bool(available()), reason=available() or "isolated")


@needs_isolation
def test_a_program_passes_by_its_last_line_and_says_what_it_printed() -> None:
    """As a calculator, or as a test: modules, classes, files of the library and local sockets work."""
    assert run("print(2 ** 10 - 24)") == Verdict("passed", "", "1000\n")
    assert run("import asyncio\nprint(asyncio.run(asyncio.sleep(0, 'slept')))").output == "slept\n"
    assert (
        run("import pickle\nclass A: pass\nassert pickle.loads(pickle.dumps(A())).__class__ is A").outcome
        == "passed"
    )
    assert run("print('ä' * 10**5)").output == "ä" * (2**15)
    assert run("input()").detail.startswith("EOFError")
    assert run("print(hash('a'))") == run("print(hash('a'))")


@needs_isolation
def test_verdicts_come_in_order() -> None:
    assert [one.output for one in run_all([f"print({i})" for i in range(6)], 3)] == [
        f"{i}\n" for i in range(6)
    ]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only directory in which programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    available.cache_clear()
    sandbox._isolation.cache_clear()
    yield tmp_path
    available.cache_clear()
    sandbox._isolation.cache_clear()


def test_nothing_runs_without_bubblewrap(path: Path) -> None:
    with pytest.raises(SandboxMissing, match="apt-get install bubblewrap"):
        run("raise SystemExit")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo bwrap: No permissions to create new namespace >&2; exit 1",
            "No permissions to create new namespace",
        ),
        (f"exec {sys.executable} {sandboxed.__file__} 5 {2**29}", "does not isolate"),
    ],
    ids=["no namespaces", "no isolation"],
)
def test_nothing_runs_where_bubblewrap_does_not_isolate(path: Path, script: str, reason: str) -> None:
    bubblewrap = path / "bwrap"
    bubblewrap.write_text(f"#!/bin/sh\n{script}\n")
    bubblewrap.chmod(stat.S_IRWXU)
    with pytest.raises(SandboxMissing, match=reason):
        run(f"open({str(path / 'ran')!r}, 'w')")
    assert [one.name for one in path.iterdir()] == ["bwrap"]


@needs_isolation
def test_a_sandbox_ends_with_the_process_that_started_it() -> None:
    code = "from tasks.sandbox import run; run('while True: pass')"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(sandbox.__file__).parents[1])
    while not (
        inside := [
            one for one in psutil.Process(parent.pid).children(recursive=True) if one.name() != "bwrap"
        ]
    ):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    psutil.wait_procs(inside, timeout=10)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in inside)


class Mutant(ast.NodeTransformer):
    """Puts whatever is returned into a list."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.Return(ast.List([node.value or ast.Constant(None)], ast.Load()))


def mutated(source: str) -> str:
    return ast.unparse(ast.fix_missing_locations(Mutant().visit(ast.parse(source))))


def humaneval(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each problem's solution, which may hold what ends a completion, and its checks."""
    for row in rows:
        yield row["prompt"] + row["canonical_solution"], f"\n{row['test']}\ncheck({row['entry_point']})\n"


def mbpp(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for row in rows:
        yield row["code"], mbpp_program("", row["test_list"], row["test_setup_code"])


@pytest.mark.slow
@needs_isolation
@pytest.mark.parametrize(
    ("name", "read", "problems"),
    [("humaneval/HumanEval.jsonl.gz", humaneval, 164), ("mbpp/mbpp.jsonl", mbpp, 384)],
    ids=["humaneval", "mbpp"],
)
def test_canonical_solutions_pass_and_mutated_ones_fail(name: str, read: Any, problems: int) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no ../shared/data/{name}")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    pairs = [*read([json.loads(line) for line in text.splitlines()])]
    assert len(pairs) == problems
    right = run_all([solution + checks for solution, checks in pairs], 2)
    assert [one for one in right if one.outcome != "passed"] == []
    wrong = run_all([mutated(solution) + checks for solution, checks in pairs], 2)
    assert [one for one in wrong if one.outcome != "failed"] == []
