"""What the virtual-time loop promises: no waiting, no false time-outs, and one order of events for each seed."""

import asyncio
import contextlib
import gc
import hashlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lambent.testing.loop import (
    Deadlock,
    TraceHash,
    VirtualClock,
    VirtualLoop,
    describe,
    run,
    with_process,
)


def this_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def start(process: str, coroutine):
    with with_process(process):
        return asyncio.create_task(coroutine)


def some_real_work() -> bytes:
    """Tens of real milliseconds, in which a wrong loop would have moved its clock by days."""
    return hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000)


# --- time


def test_a_simulated_day_of_sleep_takes_no_real_time():
    async def main():
        await asyncio.sleep(86_400)
        return this_loop().time()

    assert run(main()) == 86_400.0  # a loop that waited would still be waiting


def test_a_year_of_sleep_passes_the_longest_wait_that_asyncio_makes_at_once():
    async def main():
        await asyncio.sleep(365 * 86_400)
        return this_loop().time()

    assert run(main()) == 365 * 86_400.0


def test_the_clock_stops_exactly_at_each_timer_however_late_it_is():
    async def main():
        loop = this_loop()
        await asyncio.sleep(123_456_789.1)
        for _ in range(100):
            expected = loop.time() + 0.1
            await asyncio.sleep(0.1)
            assert loop.time() == expected

    run(main())


def test_a_virtual_timeout_strikes_at_its_time():
    async def main():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(6)
        return this_loop().time()

    assert run(main()) == 5.0


def test_a_task_group_lasts_as_long_as_its_longest_task():
    async def main():
        async with asyncio.TaskGroup() as group:
            for seconds in (3, 9, 6):
                group.create_task(asyncio.sleep(seconds))
        return this_loop().time()

    assert run(main()) == 9.0


def test_waiting_with_a_timeout_tells_done_from_pending():
    async def main():
        fast, slow = asyncio.create_task(asyncio.sleep(1)), asyncio.create_task(asyncio.sleep(100))
        done, pending = await asyncio.wait([fast, slow], timeout=10)
        assert (done, pending) == ({fast}, {slow})
        return this_loop().time()

    assert run(main()) == 10.0


def test_cancelled_timers_do_not_move_the_clock_and_do_not_pile_up():
    async def main():
        loop = this_loop()
        for _ in range(5_000):
            async with asyncio.timeout(1_000):
                await asyncio.sleep(0.001)
        assert len(loop._scheduled) < 500
        return loop.time()

    assert run(main()) == pytest.approx(5.0)


def test_a_task_that_spins_does_not_hold_up_a_timer_that_is_due():
    async def main():
        due = asyncio.Event()
        this_loop().call_later(0, due.set)
        while not due.is_set():
            await asyncio.sleep(0)

    run(main())


def test_the_wall_clock_jumps_and_the_monotonic_clock_does_not():
    async def main():
        clock = VirtualClock(this_loop())
        await asyncio.sleep(2)
        clock.shift(-3600)
        return clock.now(), clock.monotonic()

    assert run(main()) == (1_700_000_002.0 - 3600, 2.0)


# --- what holds the clock back


def test_a_thread_is_never_late_for_a_virtual_timeout():
    async def main():
        async with asyncio.timeout(0.001):
            answer = await asyncio.to_thread(lambda: some_real_work() and "done")
        return answer, this_loop().time()

    assert run(main(), deterministic=False) == ("done", 0.0)


def test_a_thread_that_the_loop_does_not_know_freezes_the_clock_when_told():
    async def main():
        loop, answer = this_loop(), asyncio.Event()
        with loop.outside_work():
            thread = threading.Thread(target=lambda: some_real_work() and loop.call_soon_threadsafe(answer.set))
            thread.start()
            async with asyncio.timeout(0.001):
                await answer.wait()
        thread.join()
        return loop.time()

    assert run(main(), deterministic=False) == 0.0


def test_a_thread_that_hangs_meets_its_virtual_timeout_once_patience_is_over():
    async def main():
        gate = threading.Event()
        try:
            async with asyncio.timeout(30):
                await asyncio.to_thread(gate.wait)
        except TimeoutError:
            return this_loop().time()
        finally:
            gate.set()

    assert run(main(), deterministic=False, patience_seconds=0.02) == 30.0


def test_a_child_process_is_never_late_for_a_virtual_timeout():
    async def main():
        code = "print('hello')"
        async with asyncio.timeout(0.01):
            child = await asyncio.create_subprocess_exec(sys.executable, "-Sc", code, stdout=subprocess.PIPE)
            out, _ = await child.communicate()
        return out, child.returncode

    out, code = run(main(), deterministic=False)
    assert (out.strip(), code) == (b"hello", 0)


def test_a_server_in_the_same_loop_may_sleep_while_its_client_waits():
    async def answer(reader, writer):
        await asyncio.sleep(30)
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"ping\n")
            async with asyncio.timeout(31):
                line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return line, this_loop().time()

    assert run(main(), deterministic=False) == (b"ping\n", 30.0)


def test_an_outside_server_is_never_late_for_a_virtual_timeout():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                some_real_work()
                connection.sendall(b"pong\n")

        thread = threading.Thread(target=answer)
        thread.start()

        async def main():
            reader, writer = await asyncio.open_connection(*server.getsockname())
            async with asyncio.timeout(5):
                line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line, this_loop().time() < 5

        assert run(main(), deterministic=False) == (b"pong\n", True)
        thread.join()


def test_a_deadlock_is_an_error_that_names_each_waiting_task_and_its_line():
    async def forever(event):
        await event.wait()

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(asyncio.Event()), name="the-lonely-one")

    with pytest.raises(Deadlock) as caught:
        run(main())
    assert "the-lonely-one waits: " in str(caught.value)
    assert "forever (test_loop.py:" in str(caught.value)
    assert "Event.wait (locks.py:" in str(caught.value)


# --- determinism


@pytest.mark.parametrize(
    "touch",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("127.0.0.1", 1),
        lambda: asyncio.start_server(print, "127.0.0.1", 0),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.create_subprocess_shell("true"),
    ],
)
def test_a_deterministic_loop_refuses_the_outside_and_says_what_to_do(touch):
    async def main():
        await touch()

    with pytest.raises(RuntimeError, match="deterministic=False"):
        run(main())


async def race(order: list[int]) -> None:
    async def step(number):
        for _ in range(3):
            await asyncio.sleep(0)
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(step(number))


def ordered(seed):
    order: list[int] = []
    run(race(order), seed=seed)
    return order


def test_without_a_seed_tasks_run_first_come_first_served():
    assert ordered(None) == [0, 1, 2, 3, 4] * 3


def test_seeds_explore_orders_and_each_repeats_its_own():
    assert len({tuple(ordered(seed)) for seed in range(20)}) > 15
    assert all(ordered(seed) == ordered(seed) for seed in range(20))


def test_a_shuffle_keeps_the_order_of_plain_callbacks_and_of_one_futures_callbacks():
    async def main():
        loop, seen = this_loop(), []
        future = loop.create_future()

        async def waiter(name):
            await future
            seen.append(name)

        future.add_done_callback(lambda _: seen.append("a"))
        loop.waiter = asyncio.create_task(waiter("b"))
        await asyncio.sleep(1)
        future.add_done_callback(lambda _: seen.append("c"))
        future.set_result(None)
        for number in range(5):
            loop.call_soon(seen.append, number)
        await asyncio.sleep(1)
        return seen

    for seed in range(50):
        seen = run(main(), seed=seed)
        assert [x for x in seen if isinstance(x, int)] == list(range(5))
        assert [x for x in seen if isinstance(x, str)] == ["a", "b", "c"]


def test_a_shuffle_keeps_streams_in_order():
    async def echo(reader, writer):
        async for line in reader:
            writer.write(line)
        writer.close()

    async def main():
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for number in range(20):
                writer.write(b"%d\n" % number)
                await asyncio.sleep(0)
            writer.write_eof()
            lines = await reader.read()
            writer.close()
            await writer.wait_closed()
        return [int(line) for line in lines.split()]

    for seed in range(10):
        assert run(main(), seed=seed, deterministic=False) == list(range(20))


def test_two_runs_of_a_seed_have_one_trace_and_two_seeds_have_two():
    def trace(seed):
        hashed = TraceHash()
        run(race([]), seed=seed, on_step=hashed)
        return hashed.hexdigest()

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_a_step_is_described_by_its_process_and_what_it_calls():
    seen = set()

    async def main():
        await start("engine-1", race([]))

    run(main(), on_step=lambda _, handle: seen.add(describe(handle)))
    assert "engine-1: race" in seen
    assert any(text.startswith("world: ") for text in seen)


# --- the end


def test_run_cancels_what_is_left_and_waits_for_its_cleaning_up():
    cleaned = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            cleaned.append(this_loop().time())

    async def main():
        this_loop().task = asyncio.create_task(background())
        await asyncio.sleep(1)

    run(main())
    assert cleaned == [6.0]


def test_run_abandons_a_task_that_swallows_every_cancellation():
    async def stubborn():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def main():
        this_loop().task = asyncio.create_task(stubborn())
        await asyncio.sleep(1)

    run(main())
    gc.collect()


def test_a_hundred_loops_leave_no_file_open():
    fds = Path(f"/proc/{os.getpid()}/fd")
    if not fds.exists():
        fds = Path("/dev/fd")
    before = len(list(fds.iterdir()))
    for _ in range(100):
        run(asyncio.sleep(1))
    assert len(list(fds.iterdir())) == before


@pytest.mark.virtual_time
async def test_a_marked_test_runs_on_virtual_time():
    await asyncio.sleep(6 * 3600)
    assert this_loop().time() == 6 * 3600
    assert await asyncio.to_thread(lambda: 1) == 1


@pytest.mark.virtual_time(seed=3, deterministic=True)
async def test_a_mark_may_ask_for_a_deterministic_loop():
    assert this_loop().deterministic
    with pytest.raises(RuntimeError, match="in-process stand-in"):
        await asyncio.to_thread(lambda: 1)


async def test_an_unmarked_test_runs_on_the_loop_it_always_had():
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [1, 2])
async def test_a_mark_goes_together_with_parameters(seconds):
    await asyncio.sleep(seconds)
    assert this_loop().time() == seconds
