"""Which processes belong to an environment, and whose a connection is, as /proc tells it.

Decides kinship: a process belongs to the environment in whose session it is, from whose first process it descends, or
whose Runtime API it was told of when it began (the port in its variables, which a daemon keeps that left the session
and lost its parents). A process that also wiped its variables is not found: an environment of this kind protects from
accidents, not from attackers (docs/environments.md).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

NETLINK_SECONDS: Final = 0.1
# <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = (0xFFFFFFFF, 0xFFFFFFFF)
_INODE_AT: Final = 16 + 68  # after nlmsghdr, at the end of inet_diag_msg
_LOOPBACK: Final = b"\x7f\0\0\1"

MAXIMUM_ROUNDS: Final = 100
"""Of killing: a process that forks faster than it is looked for is caught when it is stopped, in the first few."""
DYING_MS: Final = 10
"""For which each that was killed is waited for in a round: on a busy machine the kernel takes its time."""


class Process(NamedTuple):
    """One line of the table: who, whose child, in which session, and is it dead and only not yet collected."""

    pid: int
    parent: int
    session: int
    dead: bool


def processes() -> Iterator[Process]:
    """All that there are now."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _read(int(name))) is not None:
            yield found


def members(first: int, marker: bytes) -> set[int]:
    """The living processes of the environment whose first process is, or was, `first`; its session has that number,
    too. `marker`: the variable that tells it its Runtime API."""
    table = _living()
    found = {pid for pid, each in table.items() if each.session == first or pid == first}
    found |= {pid for pid in table if pid not in found and _was_told(pid, marker)}
    return _with_descendants(found, table)


def kill(first: int, marker: bytes) -> None:
    """End all of them, also those that are born meanwhile. Theirs to collect is whoever their parents are."""
    assert first > 1, "0 would be this process's own group, 1 everybody's"
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(first, signal.SIGKILL)
    for _ in range(MAXIMUM_ROUNDS):
        found = members(first, marker)
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        see_end(found)


def see_end(pids: set[int]) -> None:
    """Wait until they are dead, for a moment."""
    for pid in pids:
        with suppress(OSError):  # it is gone
            descriptor = os.pidfd_open(pid)
            try:
                dying = select.poll()
                dying.register(descriptor, select.POLLIN)
                dying.poll(DYING_MS)
            finally:
                os.close(descriptor)


def resident_bytes(first: int) -> int:
    """What the first process and its descendants hold in memory; pages that several share count for each of them."""
    pages = 0
    for pid in family(first):
        with suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
            pages += int(file.read().split()[1])
    return pages * _PAGE


def family(first: int) -> Iterator[int]:
    """The first process and its living descendants, each before its children are looked for."""
    waiting = [first]
    while waiting:
        yield (pid := waiting.pop())
        with suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    waiting += map(int, file.read().split())


def holds(first: int, marker: bytes, peer: tuple[str, int], port: int) -> bool:
    """Is the end of a loopback connection, from `peer` to our `port`, held by one of them?"""
    inode = _inode(peer[1], port)
    if inode is None:
        return False
    wanted = f"socket:[{inode}]"
    if _has(first, wanted):
        return True
    table = _living()
    near = _with_descendants({pid for pid, each in table.items() if each.session == first}, table)
    if any(_has(pid, wanted) for pid in near):
        return True
    return any(_has(pid, wanted) for pid in table.keys() - near if _was_told(pid, marker))  # dear, and rare


def _living() -> dict[int, Process]:
    return {each.pid: each for each in processes() if not each.dead and each.pid != os.getpid()}


def _with_descendants(found: set[int], table: dict[int, Process]) -> set[int]:
    grown = True
    while grown:
        born = {each.pid for each in table.values() if each.parent in found and each.pid not in found}
        grown = bool(born)
        found |= born
    return found


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
    except (OSError, ValueError):  # it ended just now
        return None
    return Process(pid, int(parent), int(session), state in b"ZX")


def _was_told(pid: int, marker: bytes) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return marker in file.read().split(b"\0")
    return False


def _has(pid: int, wanted: str) -> bool:
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") == wanted:
                    return True
    return False


def _inode(peer_port: int, port: int) -> int | None:
    """Of the socket at 127.0.0.1:`peer_port` that is connected to 127.0.0.1:`port`."""
    found = _asked_inode(peer_port, port)
    return _read_inode(peer_port, port) if found is None else found


def _asked_inode(peer_port: int, port: int) -> int | None:
    """As the kernel tells of this one socket (sock_diag(7)); None, where it does not. A socket of IPv6 that speaks IPv4
    is found, too."""
    identity = struct.pack("!HH4s12x4s12x", peer_port, port, _LOOPBACK, _LOOPBACK) + struct.pack("=III", 0, *_NO_COOKIE)
    body = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, _ALL_STATES) + identity
    header = struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(NETLINK_SECONDS)
            kernel.send(header + body)
            answer = kernel.recv(4096)
    except OSError:  # no such socket family here, or not for us
        return None
    if len(answer) < _INODE_AT + 4 or struct.unpack_from("=H", answer, 4) != (_SOCK_DIAG_BY_FAMILY,):
        return None
    inode: int = struct.unpack_from("=I", answer, _INODE_AT)[0]
    return inode


def _read_inode(peer_port: int, port: int) -> int | None:
    """As the table of all sockets has it, which takes milliseconds to read."""
    local, remote = b"0100007F:%04X" % peer_port, b"0100007F:%04X" % port
    for table, prefix in (("/proc/net/tcp", b""), ("/proc/net/tcp6", b"0000000000000000FFFF0000")):
        with suppress(OSError), open(table, "rb") as file:
            for line in file:
                fields = line.split()
                if len(fields) > 9 and fields[1] == prefix + local and fields[2] == prefix + remote:
                    return int(fields[9])
    return None


_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
