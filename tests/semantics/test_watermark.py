"""Each record's fate is told once, when the watermark passes it."""

from __future__ import annotations

from lambent.model import Checkpoint, Invoke, Settled
from lambent.semantics.watermark import Watermark

from .driver import Driver, driver, key_of_lane, poison, position

POSITIONS = list("abcdef")


def test_fates_are_told_in_the_order_of_positions_however_they_were_found() -> None:
    mark = Watermark("")
    mark.read(POSITIONS)
    mark.finish([2, 3], "delivered")
    mark.finish([1], "failed", "RetryAttemptsExhausted")
    assert mark.settled(ended=False) == ()
    mark.finish([0], "filtered")
    assert mark.position == "d"
    assert mark.settled(ended=False) == (
        Settled("a", "a", 1, "filtered"),
        Settled("b", "b", 1, "failed", "RetryAttemptsExhausted"),
        Settled("c", "d", 2, "delivered"),
    )
    mark.finish([4, 5], "delivered")
    assert mark.settled(ended=True) == (Settled("e", "f", 2, "delivered"),)


def test_neighbours_of_one_fate_are_one_range_over_batches_and_reads() -> None:
    mark = Watermark("")
    mark.read(POSITIONS[:3])
    mark.read(POSITIONS[3:])
    for ordinals in ([1, 3], [0, 2], [4], [5]):
        mark.finish(ordinals, "delivered")
    assert mark.settled(ended=False) == (Settled("a", "f", 6, "delivered"),)


def test_what_is_missing_is_passed_together_with_the_record_that_follows_it() -> None:
    mark = Watermark("")
    mark.read(POSITIONS[:2])
    mark.lose(7)
    mark.read(POSITIONS[2:4])
    mark.finish([0, 1], "delivered")
    assert mark.settled(ended=False) == (Settled("a", "b", 2, "delivered"),)
    mark.finish([2, 3], "delivered")
    assert mark.settled(ended=False) == (
        Settled("", "", 7, "lost", "trimmed by the source"),
        Settled("c", "d", 2, "delivered"),
    )


def test_what_is_missing_at_the_end_of_a_shard_is_told_with_its_end() -> None:
    mark = Watermark("")
    mark.lose(7)
    assert mark.settled(ended=False) == ()
    assert mark.settled(ended=True) == (Settled("", "", 7, "lost", "trimmed by the source"),)


def test_a_next_owner_tells_only_what_the_former_one_did_not_store() -> None:
    """A blocked lane: what the other one did above it is done again, and told once."""
    one, other = (key_of_lane(lane, 2) for lane in range(2))
    play = driver(batch_size=1, parallelization_factor=2, function=poison(2)).put(6, [one, other, one, one, one, one])
    play.run(0.5)
    assert sorted(set(play.invoked)) == [1, 2, 3, 4, 5, 6]
    assert play.settled == [Settled(position(1), position(1), 1, "delivered")]
    play.function = lambda call: None
    play.crash().run()
    assert play.invoked.count(6) == 2
    assert joined(play) == [Settled(position(1), position(6), 6, "delivered")]


def test_a_loss_that_the_former_owner_met_and_did_not_pass_is_told_once() -> None:
    play = driver(batch_size=2).put(6)
    play.trimmed = 3
    play.until(Invoke)
    play.crash().run()
    assert joined(play) == [
        Settled("", "", 3, "lost", "trimmed by the source"),
        Settled(position(4), position(6), 3, "delivered"),
    ]


def test_a_loss_at_the_end_of_a_closed_shard_is_told_once_although_the_shard_is_taken_over() -> None:
    play = driver(batch_size=2).put(6).close()
    play.trimmed = 6
    assert play.until(Checkpoint).settled == (Settled("", "", 6, "lost", "trimmed by the source"),)
    play.crash().run()
    assert play.fates() == {"lost": 6}
    play.crash().run()
    assert play.fates() == {"lost": 6}


def joined(play: Driver) -> list[Settled]:
    """Neighbours of one fate put together, as a store does."""
    found: list[Settled] = []
    for each in play.settled:
        if found and (found[-1].fate, found[-1].reason) == (each.fate, each.reason):
            before = found.pop()
            each = Settled(before.first, each.last, before.count + each.count, each.fate, each.reason)
        found.append(each)
    return found
