"""The system calls that a sandboxed program may make, as a filter for the kernel (libseccomp writes it, by name).

What is not listed fails with EPERM: no process or thread, no socket of any family but a pair of local ones, nothing
that changes a file system, no shared memory, tracing, keys, mounts or namespaces. Calls of another architecture than
the machine's own kill the program.
"""

import ctypes
import errno
import os
from functools import cache

LIBRARY = "libseccomp.so.2"
ALLOWED = """
brk mmap munmap mprotect mremap madvise
read readv pread64 write writev lseek close close_range dup dup2 dup3 poll ppoll select pselect6 pipe pipe2
eventfd2 epoll_create1 epoll_ctl epoll_wait epoll_pwait sendto recvfrom shutdown getsockopt getsockname getpeername
open openat access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs readlink readlinkat getdents64
getcwd chdir fchdir
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getitimer setitimer alarm pause
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack kill tkill tgkill
restart_syscall
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid
execve exit exit_group wait4 waitid futex set_tid_address set_robust_list rseq arch_prctl
prlimit64 getrlimit setrlimit getrusage sched_yield sched_getaffinity getcpu sysinfo uname getrandom
"""
"""What Python's own start, its standard library and its end need; execve also starts Python itself."""
TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX = 0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451
IOCTLS = (TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX)
"""Whether a stream is a terminal and how wide, what waits in it, whether it blocks and outlives execve."""
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
FCNTLS = (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC)
"""No locks, leases, signals or sizes of pipes."""
AF_UNIX = 1

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MASKED_EQUAL, _LOW_HALF = 7, 0xFFFFFFFF


class _Condition(ctypes.Structure):
    """libseccomp's scmp_arg_cmp: an argument of a call, compared with a value through a mask."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    ]


@cache
def program() -> bytes:
    """Return the filter as a BPF program for this machine. Raises OSError where libseccomp is missing or refuses."""
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM)))
    reading, writing = os.pipe()
    try:
        for name in ALLOWED.split():
            _allow(library, context, name)
        for name, argument, values in (
            ("ioctl", 1, IOCTLS),
            ("fcntl", 1, FCNTLS),
            ("socketpair", 0, (AF_UNIX,)),
        ):
            for value in values:
                _allow(library, context, name, _Condition(argument, _MASKED_EQUAL, _LOW_HALF, value))
        if library.seccomp_export_bpf(context, writing):
            raise OSError("libseccomp could not write the filter")
        return os.read(reading, 1 << 16)
    finally:
        os.close(reading)
        os.close(writing)
        library.seccomp_release(context)


def _allow(library: ctypes.CDLL, context: ctypes.c_void_p, name: str, *conditions: _Condition) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:  # another architecture's call
        return
    array = (_Condition * len(conditions))(*conditions)
    if library.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), number, len(conditions), array):
        raise OSError(f"libseccomp does not take a rule for {name}")
