"""Which invocations may start, and who is next: Lambda's rules of concurrency, and the guard against recursion."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.errors import InvalidParameterValue
from lambent.model import Function, Throttled
from lambent.semantics import recursion
from lambent.semantics.concurrency import ACCOUNT, RESERVED, UNRESERVED, Concurrency, Demand, Permit, Waiter


def admitted(concurrency: Concurrency, function: str, count: int = 1, mapping: str | None = None) -> list[Permit]:
    permits = [concurrency.admit(function, mapping, 0.0) for _ in range(count)]
    assert all(isinstance(permit, Permit) for permit in permits)
    return permits  # type: ignore[return-value]


def waiting(concurrency: Concurrency, function: str, called: list[str], name: str = "") -> Waiter:
    waiter = concurrency.wait(function, None, lambda: called.append(name or function), 0.0)
    assert isinstance(waiter, Waiter)
    return waiter


def wake(concurrency: Concurrency) -> None:
    for callback in concurrency.wake():
        callback()


def test_functions_without_a_reservation_share_what_the_account_has() -> None:
    concurrency = Concurrency(3)
    permits = admitted(concurrency, "a", 2) + admitted(concurrency, "b")
    assert concurrency.admit("c", None, 0.0) == Throttled("ConcurrentInvocationLimitExceeded")
    concurrency.release(permits[0])
    admitted(concurrency, "c")
    assert concurrency.running() == {"a": 1, "b": 1, "c": 1}


def test_a_reservation_is_a_floor_and_a_ceiling() -> None:
    concurrency = Concurrency(103)
    concurrency.reserve("mine", 3)
    admitted(concurrency, "other", 100)
    assert concurrency.admit("other", None, 0.0) == UNRESERVED
    admitted(concurrency, "mine", 3)
    assert concurrency.admit("mine", None, 0.0) == Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")


def test_a_reservation_of_zero_is_told_apart_from_a_throttle() -> None:
    concurrency = Concurrency()
    concurrency.reserve("off", 0)
    assert concurrency.admit("off", None, 0.0) == Throttled(RESERVED.reason, reserved_zero=True)
    assert concurrency.room("off", None, 0.0) == 0


@pytest.mark.parametrize(("amount", "allowed"), [(900, True), (901, False), (1001, False), (0, True)])
def test_a_hundred_stay_unreserved(amount: int, allowed: bool) -> None:
    concurrency = Concurrency(1000)
    if allowed:
        return concurrency.reserve("a", amount)
    with pytest.raises(InvalidParameterValue) as caught:
        concurrency.reserve("a", amount)
    assert caught.value.message == (
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
        "below its minimum value of [100]."
    )


def test_a_small_account_can_still_switch_a_function_off() -> None:
    concurrency = Concurrency(10)
    concurrency.reserve("a", 0)
    with pytest.raises(InvalidParameterValue):
        concurrency.reserve("a", 1)


def test_a_changed_reservation_replaces_the_former_one() -> None:
    concurrency = Concurrency(1000)
    for amount in (900, 5, 900):
        concurrency.reserve("a", amount)
    assert concurrency.room("b", None, 0.0) == 100
    concurrency.reserve("a", None)
    assert concurrency.room("b", None, 0.0) == 1000


def test_what_runs_moves_with_its_function_into_the_reserved_pool_and_back() -> None:
    concurrency = Concurrency(110)
    permits = admitted(concurrency, "a", 4)
    concurrency.reserve("a", 2)
    assert concurrency.room("a", None, 0.0) == 0
    assert concurrency.room("b", None, 0.0) == 108
    concurrency.reserve("a", None)
    assert concurrency.room("b", None, 0.0) == 106
    for permit in permits:
        concurrency.release(permit)
    assert concurrency.room("b", None, 0.0) == 110


def test_a_mapping_has_a_maximum_of_its_own() -> None:
    concurrency = Concurrency()
    concurrency.limit_mapping("m", 2)
    permits = admitted(concurrency, "a", 2, mapping="m")
    assert isinstance(concurrency.admit("a", "m", 0.0), Throttled)
    assert concurrency.room("a", "m", 0.0) == 0
    admitted(concurrency, "a")
    concurrency.release(permits[0])
    assert concurrency.room("a", "m", 0.0) == 1
    concurrency.limit_mapping("m", None)
    admitted(concurrency, "a", 5, mapping="m")


def test_a_function_scales_by_a_thousand_at_once_and_a_hundred_more_each_second() -> None:
    concurrency = Concurrency(10_000)
    permits = admitted(concurrency, "a", 1000)
    assert isinstance(concurrency.admit("a", None, 0.0), Throttled)
    admitted(concurrency, "b", 1000)
    assert concurrency.room("a", None, 1.0) == 100
    for permit in permits:
        concurrency.release(permit)
    assert concurrency.room("a", None, 1.0) == 1100  # environments that are there already are not counted again


def test_who_scales_too_fast_is_told_when_to_try_again() -> None:
    concurrency = Concurrency(10_000)
    admitted(concurrency, "a", 1000)
    assert concurrency.wait("a", None, print, 0.0) == pytest.approx(0.01)


def test_capacity_does_not_pile_up_while_it_is_not_used() -> None:
    concurrency = Concurrency(100_000)
    assert concurrency.room("a", None, 1_000.0) == 1000


def test_a_permit_is_given_back_once() -> None:
    concurrency = Concurrency()
    (permit,) = admitted(concurrency, "a")
    concurrency.release(permit)
    with pytest.raises(AssertionError):
        concurrency.release(permit)


def test_whoever_waits_longest_is_called_first() -> None:
    concurrency, called = Concurrency(1), []
    (permit,) = admitted(concurrency, "a")
    for name in ("b", "c"):
        waiting(concurrency, name, called)
    concurrency.release(permit)
    wake(concurrency)
    assert called == ["b"]
    wake(concurrency)  # b had its turn and took nothing
    assert called == ["b", "c"]
    assert not concurrency.free


def test_whoever_was_called_in_vain_waits_at_the_front() -> None:
    concurrency, called = Concurrency(1), []
    (permit,) = admitted(concurrency, "a")
    for name in ("b", "c"):
        waiting(concurrency, name, called)
    concurrency.release(permit)
    wake(concurrency)
    (permit,) = admitted(concurrency, "quick")
    waiting(concurrency, "b", called)
    concurrency.release(permit)
    wake(concurrency)
    assert called == ["b", "b"]


def test_a_waiter_can_leave_the_queue() -> None:
    concurrency, called = Concurrency(1), []
    (permit,) = admitted(concurrency, "a")
    first = waiting(concurrency, "b", called)
    waiting(concurrency, "c", called)
    first.cancel()
    first.cancel()
    concurrency.release(permit)
    wake(concurrency)
    assert called == ["c"]


def test_a_freed_permit_touches_one_of_ten_thousand_waiting_functions() -> None:
    concurrency, called = Concurrency(1), []
    (permit,) = admitted(concurrency, "a")
    for number in range(10_000):
        waiting(concurrency, f"f{number}", called)
    concurrency.release(permit)
    wake(concurrency)
    admitted(concurrency, called[0])
    wake(concurrency)
    assert called == ["f0"]
    assert not concurrency.free


def test_a_raised_limit_calls_those_who_wait() -> None:
    concurrency, called = Concurrency(1000), []
    concurrency.reserve("a", 0)
    waiting(concurrency, "a", called)
    wake(concurrency)
    assert called == []
    concurrency.reserve("a", 1)
    wake(concurrency)
    assert called == ["a"]


def test_those_who_wait_move_with_their_function() -> None:
    concurrency, called = Concurrency(200), []
    admitted(concurrency, "a", 200)
    waiting(concurrency, "b", called)
    concurrency.reserve("b", 2)
    wake(concurrency)
    assert called == ["b"]


def test_an_engine_that_shares_limits_starts_nothing_before_it_is_granted() -> None:
    concurrency, called = Concurrency(1000, shared=True), []
    assert concurrency.admit("a", None, 0.0) == UNRESERVED
    waiting(concurrency, "a", called)
    assert concurrency.demands() == {ACCOUNT: Demand(1000, 0, 1)}
    concurrency.set_block(ACCOUNT, 2)
    wake(concurrency)
    assert called == ["a"]
    permits = admitted(concurrency, "a", 2)
    concurrency.set_block(ACCOUNT, 1)
    concurrency.release(permits[0])
    assert concurrency.room("a", None, 0.0) == 0
    assert concurrency.demands() == {ACCOUNT: Demand(1000, 1, 1)}


def test_a_block_may_be_granted_before_its_limit_is_known() -> None:
    concurrency = Concurrency(1000, shared=True)
    concurrency.set_block("function:a", 3)
    concurrency.reserve("a", 5)
    assert concurrency.room("a", None, 0.0) == 3
    assert concurrency.demands() == {"function:a": Demand(5, 0, 0)}


@given(st.integers(0, 2**32))
def test_no_limit_is_exceeded_and_no_permit_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    concurrency = Concurrency(104)
    concurrency.reserve("r", 3)
    concurrency.limit_mapping("m", 2)
    functions, mappings = ("r", "u", "v"), (None, "m")
    held: list[tuple[str, str | None, Permit]] = []
    for _ in range(300):
        if held and chance.random() < 0.4:
            concurrency.release(held.pop(chance.randrange(len(held)))[2])
            continue
        function, mapping = chance.choice(functions), chance.choice(mappings)
        room = concurrency.room(function, mapping, 0.0)
        permit = concurrency.admit(function, mapping, 0.0)
        assert isinstance(permit, Permit) == (room > 0)
        if isinstance(permit, Permit):
            held.append((function, mapping, permit))
        count: Callable[[int, str], int] = lambda place, name: sum(each[place] == name for each in held)  # noqa: E731
        assert count(0, "r") <= 3
        assert count(1, "m") <= 2
        assert count(0, "u") + count(0, "v") <= 101
    for _, _, permit in held:
        concurrency.release(permit)
    assert concurrency.room("r", None, 0.0) == 3
    assert concurrency.room("u", None, 0.0) == 101
    assert concurrency.room("u", "m", 0.0) == 2


@pytest.mark.parametrize(("hops", "refused"), [(0, False), (16, False), (17, True)])
def test_a_chain_is_cut_after_sixteen_hops(hops: int, refused: bool) -> None:
    assert recursion.refused(hops, Function(name="f")) is refused
    assert not recursion.refused(hops, Function(name="f", recursive_loop="Allow"))


def test_ten_thousand_reservations_are_made_and_granted_one_by_one() -> None:
    concurrency = Concurrency(1_000_000, shared=True)
    for number in range(10_000):
        concurrency.reserve(f"f{number}", 5)
    for number in range(10_000):
        concurrency.set_block(f"function:f{number}", 1)
    concurrency.set_block(ACCOUNT, 1_000_000)
    assert concurrency.room("f9999", None, 0.0) == 1
    assert concurrency.room("other", None, 100.0) == 1000
    concurrency.reserve("f0", None)
    assert concurrency.room("f0", None, 100.0) == 1000


def test_a_trace_header_tells_how_long_a_chain_is_and_is_heard_without() -> None:
    assert recursion.heard(recursion.told("Root=1-2-3;Sampled=0", 4)) == ("Root=1-2-3;Sampled=0", 4)
    assert recursion.heard("Lineage=1:ab12:3;Root=1") == ("Root=1", 3)
    assert recursion.heard("Root=1;Lineage=9") == ("Root=1;Lineage=9", 0)
    assert recursion.heard("Lineage=1:2") == (None, 2)


@pytest.mark.parametrize("nonsense", ["", "a b", "a\r\nb", "é", "x" * 513, "Lineage=1:2\n"])
def test_what_is_no_trace_header_begins_a_chain(nonsense: str) -> None:
    assert recursion.heard(nonsense) == (None, 0)
