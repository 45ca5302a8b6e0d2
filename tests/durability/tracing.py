"""Watches a child at the system calls that change files, or kills it at the n-th: SIGKILL on its way in, before
anything is done.

Decides which calls of the kernel count as writes. It is what `strace --inject=…:signal=SIGKILL:when=N` does, without a
program to install; Linux only, on x86-64 and ARM64. Leaves to `kills.py` and `answers.py` what the child does and what
must be found.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E  # linux/ptrace.h
_OPTIONS: Final = 1 | 1 << 20  # PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL
_STOPPED_AT_CALL: Final = signal.SIGTRAP | 0x80
_ENTRY: Final = 1

_NAMES: Final = {
    0xC000003E: {  # x86-64
        1: "write", 18: "pwrite64", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate",
        82: "rename", 83: "mkdir", 87: "unlink", 90: "chmod", 91: "fchmod", 257: "openat", 263: "unlinkat",
        264: "renameat", 285: "fallocate", 296: "pwritev", 316: "renameat2", 328: "pwritev2",
    },
    0xC00000B7: {  # ARM64
        34: "mkdirat", 35: "unlinkat", 38: "renameat", 45: "truncate", 46: "ftruncate", 47: "fallocate", 52: "fchmod",
        53: "fchmodat", 56: "openat", 64: "write", 66: "writev", 68: "pwrite64", 70: "pwritev", 82: "fsync",
        83: "fdatasync", 276: "renameat2", 287: "pwritev2",
    },
}  # fmt: skip


class _Info(ctypes.Structure):
    _fields_ = [
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
        ("rest", ctypes.c_uint64 * 4),
    ]


@dataclass(frozen=True)
class Call:
    """A call that is about to be done: its name, the file that it is for, and what it writes there."""

    name: str
    file: str = ""
    data: bytes = b""


def run_and_watch(child: Callable[[], None]) -> list[Call]:
    """Run `child` in a fork to its end. Gives its calls on open files. This process must have one thread."""
    found: list[Call] = []
    for process, name, info in _calls(child):
        if name in ("write", "pwrite64", "fsync", "fdatasync", "ftruncate"):
            data = b""
            if name in ("write", "pwrite64"):
                with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
                    memory.seek(info.arguments[1])
                    data = memory.read(info.arguments[2])
            found.append(Call(name, str(Path(f"/proc/{process}/fd/{info.arguments[0]}").readlink()), data))
        else:
            assert name not in ("writev", "pwritev", "pwritev2"), "what it writes is not read here"
    return found


def run_and_kill(child: Callable[[], None], at: int | None, ignored: int) -> list[str]:
    """Run `child` in a fork, and kill it at the `at`-th writing call (None: let it end). Gives the names of the calls
    that were reached. Calls on the file descriptor `ignored` don't count. This process must have one thread."""
    calls: list[str] = []
    for process, name, info in _calls(child):
        if name != "openat" and info.arguments[0] == ignored:
            continue
        calls.append(name)
        if len(calls) == at:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return calls
    return calls


def _calls(child: Callable[[], None]) -> Iterator[tuple[int, str, _Info]]:
    """Stops the child on its way into each of the calls; the next one lets it go on."""
    process = os.fork()
    if process == 0:
        _be_traced(child)
    os.waitpid(process, 0)
    _ptrace(_SETOPTIONS, process, 0, _OPTIONS)
    info, passed_on = _Info(), 0
    while True:
        _ptrace(_SYSCALL, process, 0, passed_on)
        _, status = os.waitpid(process, 0)
        if not os.WIFSTOPPED(status):
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError(f"the child ended with status {os.waitstatus_to_exitcode(status)}")
            return
        passed_on = 0 if os.WSTOPSIG(status) == _STOPPED_AT_CALL else os.WSTOPSIG(status)
        if passed_on:
            continue
        _ptrace(_GET_SYSCALL_INFO, process, ctypes.sizeof(info), ctypes.addressof(info))
        name = _NAMES[info.arch].get(info.number)
        if info.op != _ENTRY or name is None:
            continue
        if name == "openat" and not info.arguments[2] & os.O_CREAT:
            continue
        yield process, name, info


def _be_traced(child: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        child()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, process: int, address: int, data: int) -> None:
    ptrace = _libc.ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    if ptrace(request, process, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)}: this system does not let a process trace its child (ptrace)")
