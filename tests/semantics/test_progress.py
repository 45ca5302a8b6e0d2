"""How far a shard is, as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lambent.model import Piece, Progress, WindowState
from lambent.semantics.progress import progress_of, progress_text, seek_of

texts = st.text() | st.sampled_from(['"seek":7,', '\\"seek":7,', '{"seek":7,"start":1}'])
states = st.recursive(st.none() | st.integers() | texts, lambda each: st.lists(each) | st.dictionaries(texts, each))
progresses = st.builds(
    Progress,
    position=texts,
    pieces=st.lists(st.builds(Piece, texts, texts, st.integers(0, 10)), max_size=3).map(tuple),
    window=st.none() | st.builds(WindowState, st.floats(0, 1e9), st.floats(0, 1e9), states, st.booleans()),
    ended=st.booleans(),
    seek=st.integers(0, 10**6),
    start=texts,
)


@given(progresses)
def test_progress_is_read_back_as_it_was_written(progress: Progress) -> None:
    assert progress_of(progress_text(progress)) == progress


@given(progresses)
def test_its_seek_generation_is_found_whatever_else_it_holds(progress: Progress) -> None:
    assert seek_of(progress_text(progress)) == progress.seek
