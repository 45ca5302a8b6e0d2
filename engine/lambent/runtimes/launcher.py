"""The program that begins the processes of environments: a child waits for each, and becomes the client that is told.

Decides how a process loses what it must not have, in system calls (namespaces(7), capabilities(7)); what it is to have
is decided by `launching.py`, and `beginning.py` speaks with it. It runs apart, because a process of many threads may
not do anything between fork and exec, and because four commands (unshare, mount, setpriv and a shell to join them)
would take as long as half an interpreter's start. Nothing but the standard library is imported, and of that little.

`launcher.py serve FD PREPARED` has one child ready at any time, in cgroups of its own and without privileges, so that a
cold start waits neither for a fork nor for the kernel to move a process, and nothing that it forks is outside. It says
its number on the socket, and what is told there next is for it; a little later there is another. The children are the
engine's (CLONE_PARENT), which collects them, and live on if this ends; it ends with the child that was ready and hears
that nobody asks any more. `launcher.py become FD PREPARED` becomes what a file tells.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

MAXIMUM_BYTES: Final = 262_144  # of what is told of one process
HURRY: Final = b"?"  # what is sent by whom no child waits for yet
UNHURRIED_SECONDS: Final = 0.1
"""After which there is another child if nobody hurries: until then it would take time from the one that begins."""
CANNOT_EXECUTE: Final = 126  # exit status, as shells have it
NOT_FOUND: Final = 127
_DESCRIPTORS: Final = 2

# <linux/sched.h>, <sys/mount.h>, <linux/prctl.h>, <linux/capability.h>
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CLONE_PARENT: Final = 0x8000
_CLONE_NEWNS: Final = 0x20000
_CLONE_NEWUSER: Final = 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.PyDLL(None, use_errno=True)  # which keeps the interpreter's lock: a child of `clone` has it, too


def _call(name: str, *arguments: int | bytes | ctypes.Array[Any] | None) -> int:
    """A function of libc's. Raises OSError."""
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = getattr(_libc, name)(*given)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def serve(asked: socket.socket, prepared: str) -> None:
    """Have a child ready for each that is asked for, and prepared as this says."""
    for name in ("syscall", "unshare", "mount", "prctl", "capget", "capset"):
        getattr(_libc, name)  # looked up here, once, and not by each child
    gc.disable()  # which would touch, and so copy, everything that a child shares
    while True:
        taken, its = os.pipe()
        try:
            pid = _call("syscall", _CLONE.get(os.uname().machine, -1), _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        except OSError:  # it would not be our parent's on this machine
            asked.send(b"0")
            return
        if pid == 0:
            try:
                os.close(taken)
                _wait(asked, its, prepared)
            finally:
                os._exit(CANNOT_EXECUTE)  # whatever it was: two must not go on as one
        os.close(its)
        if not os.read(taken, 1):
            return
        os.close(taken)
        select.select([asked], [], [], UNHURRIED_SECONDS)


def _wait(asked: socket.socket, taken: int, prepared: str) -> None:
    """Be prepared, say one's number, hear what to be, let there be another, and be it."""
    said = json.loads(prepared)  # here, for what is touched now is a copy already when there is no time
    _prepare(said)
    asked.send(str(os.getpid()).encode())
    message = HURRY
    while message == HURRY:
        message, ancillary, _, _ = asked.recvmsg(
            MAXIMUM_BYTES, socket.CMSG_SPACE(4 * _DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
        )
    if not message:
        return
    os.setsid()
    with suppress(OSError):  # nobody listens, if the launcher was ended
        os.write(taken, b"1")
    streams = [
        int.from_bytes(data[at : at + 4], sys.byteorder)
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for at in range(0, len(data), 4)
    ]
    for stream, descriptor in zip((1, 2), streams, strict=True):
        os.dup2(descriptor, stream)
    become(json.loads(message), dropped=said["dropping"])


def _prepare(said: dict[str, Any]) -> None:
    """All that does not depend on what it is to be."""
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by the interpreter
        signal.signal(ignored, signal.SIG_DFL)
    os.umask(0o022)
    _enter(said["groups"])
    if said["dropping"]:
        _drop()


def _enter(groups: dict[str, Any]) -> None:
    """Be in groups of one's own below these, if there can be any (`cgroups.py`): who isn't in them is looked at."""
    for folder in groups["folders"]:
        own = f"{folder}/{groups['prefix']}{os.getpid()}"
        with suppress(OSError):
            with suppress(FileExistsError):
                os.mkdir(own)
            with open(f"{own}/{groups['entrance']}", "w") as file:
                file.write("0")  # this thread, which is all of us


def become(wanted: dict[str, Any], *, dropped: bool) -> NoReturn:
    """This process is another one from now on, or ends as a shell would that cannot execute something."""
    try:
        _become(wanted, dropped)
    except OSError as error:
        os.write(2, f"lambent: {error}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE)


def _become(wanted: dict[str, Any], dropped: bool) -> NoReturn:
    if wanted["mounting"]:
        _mount(wanted["mounts"], in_user_namespace=wanted["mounting"] == "user")
    os.chdir(wanted["folder"])
    for limit, value in wanted["limits"]:
        with suppress(OSError, ValueError):
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
    if wanted["dropping"] and not dropped:
        _drop()
    if wanted["becoming"]:
        _be(wanted["becoming"])
    os.execvpe(wanted["command"][0], wanted["command"], wanted["variables"])  # noqa: S606 - no shell is wanted


def _mount(mounts: list[tuple[str, str]], *, in_user_namespace: bool) -> None:
    """Each path at another, for this process and its children only."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWNS | (_CLONE_NEWUSER if in_user_namespace else 0))
    if in_user_namespace:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    for source, target in mounts:
        _call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)


def _drop() -> None:
    """No capability is left after exec, and none comes back."""
    if os.geteuid() == 0:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            last = int(file.read())
        for capability in range(last + 1):
            _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    _call("capget", header, sets)
    sets[2] = sets[5] = 0
    _call("capset", header, sets)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _be(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def main(way: str, descriptor: int, prepared: str) -> None:
    if way == "serve":
        with socket.socket(fileno=descriptor) as asked:
            asked.set_inheritable(False)
            serve(asked, prepared)
        return
    said = json.loads(prepared)
    with open(descriptor, "rb") as file:
        wanted = json.load(file)
    os.setsid()
    _prepare(said)
    become(wanted, dropped=said["dropping"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
