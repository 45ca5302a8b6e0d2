"""The order of calls of the Runtime API: what is in its place, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.semantics.conversation import Conversation


def at(state: str) -> Conversation:
    """A conversation that came to this state, with the invocation `id` where it has or had one."""
    found = Conversation()
    if state == "InitError":
        found.init_failed()
    elif state != "Initializing":
        found.next()
        if state != "Ready":
            found.deliver("id")
            if state == "Streaming":
                found.streams()
            elif state == "Answered":
                found.answered()
    assert found.state == state
    return found


@pytest.mark.parametrize(
    ("state", "call", "status"),
    [
        ("Initializing", "next", None),
        ("Initializing", "answer", 400),
        ("Initializing", "init error", None),
        ("Ready", "next", 403),
        ("Ready", "answer", 400),
        ("Ready", "init error", 403),
        ("Running", "next", 403),
        ("Running", "answer", None),
        ("Running", "answer another", 400),
        ("Running", "init error", 403),
        ("Streaming", "next", 403),
        ("Streaming", "answer", 403),
        ("Streaming", "answer another", 400),
        ("Streaming", "init error", 403),
        ("Answered", "next", None),
        ("Answered", "answer", 403),
        ("Answered", "answer another", 400),
        ("Answered", "init error", 403),
        ("InitError", "next", 403),
        ("InitError", "answer", 400),
        ("InitError", "init error", 403),
    ],
)
def test_a_call_out_of_order_is_refused_and_changes_nothing(state: str, call: str, status: int | None) -> None:
    conversation = at(state)
    match call:
        case "next":
            refusal = conversation.next()
        case "init error":
            refusal = conversation.init_failed()
        case _:
            refusal = conversation.may_answer("id" if call == "answer" else "another")
    if status is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.status == status
        assert refusal.error_type == ("InvalidRequestID" if status == 400 else "InvalidStateTransition")
        assert conversation.state == state


def test_whoever_hung_up_while_waiting_may_ask_again() -> None:
    conversation = at("Ready")
    conversation.withdrawn()
    assert conversation.next() is None


def test_whoever_hangs_up_while_an_invocation_runs_still_has_it() -> None:
    conversation = at("Running")
    conversation.withdrawn()
    assert conversation.may_answer("id") is None


@given(st.lists(st.sampled_from(["next", "answer", "stale", "init error", "deliver", "hang up"]), max_size=60))
def test_whatever_a_client_says_each_invocation_is_answered_once_at_most(calls: list[str]) -> None:
    conversation = Conversation()
    delivered, answered = 0, []
    for call in calls:
        match call:
            case "next":
                conversation.next()
            case "answer":
                if conversation.may_answer(conversation.request_id) is None:
                    answered.append(conversation.request_id)
                    conversation.answered()
            case "stale":
                assert conversation.may_answer("of another environment") is not None
            case "init error":
                conversation.init_failed()
            case "hang up":
                conversation.withdrawn()
            case "deliver":
                if conversation.state == "Ready":
                    delivered += 1
                    conversation.deliver(str(delivered))
    assert len(set(answered)) == len(answered) <= delivered
