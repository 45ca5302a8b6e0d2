"""Which processes belong together, and whose a connection is, on the machine as it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lambent.runtimes import kinship

MARKER = b"AWS_LAMBDA_RUNTIME_API=127.0.0.1:1"
TREE = """
import os, socket, sys
port = int(sys.argv[1])
ours = socket.create_connection(("127.0.0.1", port))
if not os.fork():
    os.setsid()
    theirs = socket.create_connection(("127.0.0.1", port))
    print("ready", theirs.getsockname()[1], flush=True)
    sys.stdin.read()
    os._exit(0)
print("ready", ours.getsockname()[1], flush=True)
sys.stdin.read()
os.wait()
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def tree(listening: socket.socket) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process and a child in another session, each with a connection; and the ports of these."""
    command = [sys.executable, "-c", TREE, str(listening.getsockname()[1])]
    variables = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, env=variables
    ) as process:
        assert process.stdout is not None
        yield process, [int(process.stdout.readline().split()[1]) for _ in range(2)]
        kinship.kill(process.pid, MARKER)


def test_a_child_in_another_session_is_a_member_and_we_are_not(tree: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, _ = tree
    found = kinship.members(process.pid, MARKER)
    assert process.pid in found
    assert len(found) == 2
    assert os.getpid() not in found


def test_a_connection_is_a_members_or_a_strangers(
    tree: tuple[subprocess.Popen[str], list[int]], listening: socket.socket
) -> None:
    process, ports = tree
    port = listening.getsockname()[1]
    assert all(kinship.holds(process.pid, MARKER, ("127.0.0.1", peer), port) for peer in ports)
    with socket.create_connection(("127.0.0.1", port)) as ours:
        assert not kinship.holds(process.pid, MARKER, ours.getsockname(), port)
    assert not kinship.holds(process.pid, MARKER, ("127.0.0.1", 1), port)


def test_all_of_them_are_ended_and_their_memory_is_theirs_together(
    tree: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, _ = tree
    assert kinship.resident_bytes(process.pid) > 5_000_000
    kinship.kill(process.pid, MARKER)
    assert kinship.members(process.pid, MARKER) == set()
    assert kinship.resident_bytes(2**22 + 1) == 0


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_nobody_is_ended_by_a_number_that_means_many(pid: int) -> None:
    with pytest.raises(AssertionError):
        kinship.kill(pid, MARKER)


def test_the_kernel_tells_of_a_connection_what_the_table_of_all_of_them_has(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as one, socket.socket(socket.AF_INET6) as other:
        other.connect(("::ffff:127.0.0.1", port))
        for each in (one, other):
            peer, inode = each.getsockname()[1], os.fstat(each.fileno()).st_ino
            assert kinship._asked_inode(peer, port) == kinship._read_inode(peer, port) == inode
    assert kinship._asked_inode(1, port) is None
    assert kinship._read_inode(1, port) is None
