"""What runs inside a sandbox (see tasks/sandbox.py): lowers its limits, runs one program, reports how that ended.

`sandboxed.py CPU_SECONDS MEMORY_BYTES`, with a token and the program on standard input. It imports nothing of the
project, for there is nothing of the project in the sandbox.
"""

import os
import sys
from resource import (
    RLIMIT_AS,
    RLIMIT_CORE,
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_MEMLOCK,
    RLIMIT_MSGQUEUE,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    RLIMIT_SIGPENDING,
    setrlimit,
)

READY = b"+"
MOST_CHARACTERS = 1000
LIMITS = {
    RLIMIT_FSIZE: 0,
    RLIMIT_CORE: 0,
    RLIMIT_NPROC: 0,
    RLIMIT_NOFILE: 64,
    RLIMIT_MEMLOCK: 0,
    RLIMIT_MSGQUEUE: 0,
    RLIMIT_SIGPENDING: 64,
}


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Lower this process's limits for good. Past the soft limit of CPU time comes SIGXCPU, a second later SIGKILL."""
    for resource, most in LIMITS.items():
        setrlimit(resource, (most, most))
    setrlimit(RLIMIT_AS, (memory_bytes, memory_bytes))
    setrlimit(RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


def run(program: bytes) -> None:
    """Run a program as the module __main__; what it raises, SystemExit too, is the caller's."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)


def main(write=os.write, end=os._exit) -> None:
    """Report READY, then the token if the program ended by itself, else what it raised. Nothing it left behind runs."""
    report = os.dup(2)
    os.dup2(1, 2)
    token, _, program = sys.stdin.buffer.read().partition(b"\n")
    limit(*map(int, sys.argv[1:]))
    write(report, READY)
    try:
        run(program)
    except BaseException as error:
        token = f"{type(error).__name__}: {error}"[:MOST_CHARACTERS].encode(errors="replace")
    write(report, token)
    end(0)


if __name__ == "__main__":
    main()
