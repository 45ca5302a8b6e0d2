"""What a simulated process is to the virtual-time loop: it dies at once and wholly, and stands still when it must."""

import asyncio
import gc

from lambent.testing.loop import PROCESS, VirtualLoop, run, with_process


def this_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def start(process: str, coroutine):
    with with_process(process):
        return asyncio.create_task(coroutine)


def test_a_killed_process_runs_no_further_and_others_do():
    async def tick(seen):
        while True:
            seen.append(this_loop().time())
            await asyncio.sleep(1)

    async def main():
        loop, dead, alive = this_loop(), [], []
        start("one", tick(dead))
        start("two", tick(alive))
        await asyncio.sleep(2.5)
        loop.kill("one")
        await asyncio.sleep(2)
        assert (loop.dead("one"), loop.dead("two")) == (True, False)
        return dead, alive

    assert run(main()) == ([0, 1, 2], [0, 1, 2, 3, 4])


def test_what_a_process_starts_belongs_to_it():
    async def child(seen):
        seen.append(PROCESS.get())

    async def parent(seen):
        async with asyncio.TaskGroup() as group:
            group.create_task(child(seen))
        this_loop().call_soon(lambda: seen.append(PROCESS.get()))
        this_loop().call_later(1, lambda: seen.append(PROCESS.get()))

    async def main():
        seen = []
        await start("engine", parent(seen))
        await asyncio.sleep(2)
        assert PROCESS.get() is None
        return seen

    assert run(main()) == ["engine"] * 3


def test_finally_blocks_of_the_dead_wait_for_the_end_and_know_that_they_are_dead():
    world = []

    async def release():
        if not this_loop().alive():
            raise ConnectionError("the dead cannot write")
        world.append("released")

    async def generate():
        try:
            while True:
                yield await asyncio.sleep(1)
        finally:
            await release()
            world.append("generator closed")

    async def hold():
        try:
            async for _ in generate():
                pass
        finally:
            world.append(("finally", this_loop().alive(), PROCESS.get()))
            await asyncio.sleep(1)  # never returns
            await release()

    async def main():
        start("engine", hold())
        await asyncio.sleep(10.5)
        this_loop().kill("engine")
        gc.collect()
        await asyncio.sleep(10)
        return list(world)

    assert run(main()) == []
    assert world == [("finally", False, "engine")]
    gc.collect()


def test_the_dead_may_try_to_start_tasks_while_they_unwind():
    async def hold():
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                keep.append(asyncio.create_task(asyncio.sleep(1)))

    keep = []

    async def main():
        start("engine", hold())
        await asyncio.sleep(1)
        this_loop().kill("engine")

    run(main())
    assert len(keep) == 3
    keep.clear()
    gc.collect()


def test_a_future_that_another_process_resolves_does_not_wake_the_dead():
    async def main():
        loop, woken = this_loop(), []
        future = loop.create_future()

        async def wait(name):
            await future
            woken.append(name)

        start("one", wait("one"))
        start("two", wait("two"))
        await asyncio.sleep(1)
        loop.kill("one")
        with with_process("two"):
            loop.call_soon(future.set_result, None)
        await asyncio.sleep(1)
        return woken

    assert run(main()) == ["two"]


def test_a_process_that_crashes_itself_stops_on_that_line():
    async def main():
        seen = []

        async def engine():
            seen.append("before")
            await this_loop().crash()
            seen.append("after")

        start("engine", engine())
        await asyncio.sleep(1)
        return seen

    assert run(main()) == ["before"]


def test_a_kill_at_step_k_strikes_before_that_step():
    async def count(seen):
        for number in range(100):
            seen.append(number)
            await asyncio.sleep(0)

    lengths = set()
    for kill_at in range(1, 60):
        seen: list[int] = []

        async def main(seen=seen):
            start("engine", count(seen))
            await asyncio.sleep(5)

        def nemesis(step, handle, kill_at=kill_at):
            if step == kill_at:
                this_loop().kill("engine")

        run(main(), on_step=nemesis)
        lengths.add(len(seen))
    assert lengths >= set(range(50))


def test_a_paused_process_runs_late_and_time_goes_on_for_others():
    async def tick(seen):
        for _ in range(4):
            seen.append(this_loop().time())
            await asyncio.sleep(1)

    async def main():
        slow, steady = [], []
        start("slow", tick(slow))
        start("steady", tick(steady))
        await asyncio.sleep(0.5)
        this_loop().pause("slow", 10)
        assert this_loop().paused("slow")
        await asyncio.sleep(20)
        return slow, steady

    assert run(main()) == ([0, 10.5, 11.5, 12.5], [0, 1, 2, 3])


def test_a_longer_pause_covers_a_shorter_one_and_a_kill_ends_both():
    async def tick(seen):
        while True:
            seen.append(this_loop().time())
            await asyncio.sleep(1)

    async def main():
        loop, seen = this_loop(), []
        start("slow", tick(seen))
        await asyncio.sleep(0.5)
        loop.pause("slow", 10)
        loop.pause("slow", 3)
        await asyncio.sleep(10.6)
        loop.pause("slow", 5)
        loop.kill("slow")
        await asyncio.sleep(20)
        return seen

    assert run(main()) == [0, 10.5]


def test_timers_of_a_paused_process_keep_their_order():
    async def main():
        seen = []
        with with_process("slow"):
            for number in range(10):
                this_loop().call_later(number + 1, seen.append, number)
        this_loop().pause("slow", 100)
        await asyncio.sleep(200)
        return seen

    for seed in range(20):
        assert run(main(), seed=seed) == list(range(10))
