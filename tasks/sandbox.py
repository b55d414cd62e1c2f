"""Programs that a model wrote, each run in a sandbox of its own, with a verdict on how it ended.

bubblewrap gives each program its own user, mount, PID, network, IPC and UTS namespaces without any capability, on
a read-only root that holds the system's libraries, Python and its standard library, and nothing else: no /proc, /dev or
/etc, no installed packages of Python, no place to write. A seccomp filter (tasks/seccomp.py) refuses new processes,
threads and sockets; limits (tasks/sandboxed.py) bound CPU time, memory and open files; this side bounds wall time and
what is kept of the output, and ends a program by killing its whole PID namespace. Where any of this is missing nothing
is run.

"passed" means that the program ran to its last line: only then does a token drawn for this run come back through a
pipe without a name. Leaving early (sys.exit, os._exit, execve, a signal) or printing anything is no pass. What cannot
be guaranteed is that a program's checks were honest: they share an interpreter with the code that they check, which may
redefine `==` for its results, or look for the token in the frames above it. No harness that runs such tests, OpenAI's
included, can exclude that; it spoils a score, never the machine.
"""

import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

from llama2_core.config import Positive, PositiveFloat, Record
from llama2_core.errors import Llama2Error
from tasks import sandboxed, seccomp

START_SECONDS = 30
"""A sandbox that is not ready by then is broken; the program's own time begins when it is."""
REPORT_BYTES = 8192
NOBODY = "65534"
DEBIAN_PACKAGES = "/usr/lib/python3"
PROBE = """
import os, socket
assert os.getppid() == 1, "the program sees processes outside"
assert not any(map(os.path.exists, ("/proc", "/etc", "/dev"))), "the program sees the host's files"
try:
    socket.socket()
except PermissionError:
    pass
else:
    raise AssertionError("system calls are not filtered")
"""
"""Passes in a sandbox that isolates, and only there."""


Outcome = Literal["passed", "failed", "timed out", "killed"]
SIGNALLED = {128 + number: number.name for number in signal.Signals}
"""bubblewrap's exit status where a signal ended the program."""


class SandboxMissing(Llama2Error):
    """There is no isolation here, so no program was run; the message says what to install or allow."""


class Limits(Record):
    """What one program may use. One process, one thread, 64 open files and no file to write hold for all."""

    cpu_seconds: Positive = 5
    """Then the kernel ends it."""
    wall_seconds: PositiveFloat = 30.0
    """From its start; then its namespace is killed. Far above the CPU time, so that a busy machine judges no worse."""
    memory_bytes: Positive = 512 * 2**20
    """Address space."""
    output_bytes: Positive = 64 * 2**10
    """Kept of standard output and error together; what comes after is read and thrown away."""


@dataclass(frozen=True)
class Verdict:
    """How a program ended."""

    outcome: Outcome
    """Ran to its end; raised or left early; used up its CPU or wall time; ended by a signal, as limits send."""
    detail: str
    """What it raised, which limit or signal ended it; empty if it passed. Written by the program: do not trust it."""
    output: str
    """What it printed."""


DEFAULT = Limits()


def run(program: str, *, limits: Limits = DEFAULT) -> Verdict:
    """Run a Python program to its end or its limits. Raises SandboxMissing where it could not be isolated."""
    if missing := available():
        raise SandboxMissing(missing)
    return _run(program, limits)


def run_all(programs: Iterable[str], workers: int, *, limits: Limits = DEFAULT) -> list[Verdict]:
    """Run programs, so many at a time; verdicts in their order."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(partial(run, limits=limits), programs))


@cache
def available() -> str:
    """Return why programs cannot be isolated here and what to do, or nothing where a trial showed that they are."""
    if sys.platform != "linux":
        return "model-written programs run on Linux only: their isolation is made of its namespaces"
    if not shutil.which("bwrap"):
        return "bubblewrap, which isolates model-written programs, is missing: apt-get install bubblewrap"
    try:
        seccomp.program()
    except OSError as error:
        return f"libseccomp, which filters system calls, is missing ({error}): apt-get install libseccomp2"
    try:
        verdict = _run(PROBE, DEFAULT)
    except SandboxMissing as error:
        return str(error)
    if verdict.outcome != "passed":
        return f"bubblewrap runs here but does not isolate: {verdict.outcome}, {verdict.detail}"
    return ""


@cache
def _isolation() -> list[str]:
    """What every sandbox is made of: bubblewrap's arguments before the filter and the command."""
    bubblewrap = shutil.which("bwrap") or "bwrap"
    python, base = Path(sys.executable).resolve(), Path(sys.base_prefix).resolve()
    shown = dict.fromkeys([*map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64")), base / "lib", python])
    own = {"base": str(base), "platbase": str(base)}
    packages = {sysconfig.get_path(name, vars=own) for name in ("purelib", "platlib")} | {DEBIAN_PACKAGES}
    hidden = sorted(path for path in packages if Path(path).exists())
    return [
        *(bubblewrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox"),
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session"),
        *(word for path in shown if path.exists() for word in ("--ro-bind", str(path), str(path))),
        *(word for path in hidden for word in ("--tmpfs", path, "--remount-ro", path)),
        *("--ro-bind", sandboxed.__file__, "/sandboxed.py", "--remount-ro", "/", "--chdir", "/"),
    ]


def _start(limits: Limits) -> subprocess.Popen[bytes]:
    """Start a sandbox that waits for its program. Hashes of strings are fixed, so that a verdict can be repeated."""
    reading, writing = os.pipe()
    try:
        os.write(writing, seccomp.program())
        os.close(writing)
        python = [str(Path(sys.executable).resolve()), "-P", "-s", "-S", "-B", "-u", "/sandboxed.py"]
        command = [*python, str(limits.cpu_seconds), str(limits.memory_bytes)]
        return subprocess.Popen(
            [*_isolation(), "--seccomp", str(reading), "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[reading],
            env={"PYTHONHASHSEED": "0"},
        )
    finally:
        os.close(reading)


def _run(program: str, limits: Limits) -> Verdict:
    token = secrets.token_hex(16).encode()
    with _start(limits) as process:
        assert process.stdin and process.stdout and process.stderr
        try:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(token + b"\n" + program.encode(errors="replace"))
            output, report, in_time = _watch(process, limits)
        finally:
            process.kill()
            for stream in (process.stdout, process.stderr):  # closed when the last process inside is dead
                while stream.read(1 << 16):
                    pass
    outcome, detail = _judge(report, token, process.returncode, in_time, limits)
    return Verdict(outcome, detail, output.decode(errors="replace"))


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bytes, bool]:
    """Read output and report until the sandbox has ended or its time has; return them and whether it ended."""
    assert process.stdout and process.stderr
    output, report = bytearray(), bytearray()
    kept = {process.stdout: (output, limits.output_bytes), process.stderr: (report, REPORT_BYTES)}
    started, deadline = False, time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 1 << 16)
                buffer, most = kept[key.fileobj]  # pyright: ignore[reportArgumentType]
                buffer += chunk[: most - len(buffer)]
                if not chunk:
                    selector.unregister(key.fileobj)
            if report and not started:
                started, deadline = True, time.monotonic() + limits.wall_seconds
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    return bytes(output), bytes(report), process.returncode is not None


def _judge(report: bytes, token: bytes, status: int, in_time: bool, limits: Limits) -> tuple[Outcome, str]:
    """Return outcome and detail. Raises SandboxMissing where the program was never reached."""
    if not report.startswith(sandboxed.READY):
        said = report.decode(errors="replace").strip() or f"it was not ready after {START_SECONDS} s"
        raise SandboxMissing(f"bubblewrap could not isolate a program: {said}. See docs/sandbox.md")
    said = report.removeprefix(sandboxed.READY)
    if said == token:
        return "passed", ""
    if not in_time:
        return "timed out", f"{limits.wall_seconds:g} s of wall time"
    if status == 128 + signal.SIGXCPU:
        return "timed out", f"{limits.cpu_seconds} s of CPU time"
    if status in SIGNALLED:
        return "killed", SIGNALLED[status]
    return "failed", said.decode(errors="replace") or f"left with status {status} before its end"
