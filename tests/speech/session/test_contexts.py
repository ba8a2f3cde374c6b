from __future__ import annotations

import pytest

from llm2ws.errors import LocalProtocolError
from llm2ws.speech.messages import AudioChunk, Cancel, Cancelled, End, Ended, Flush, Speak, Warned
from llm2ws.speech.session.contexts import Phase, Position, Turns


def test_a_turn_is_over_once_and_then_does_nothing_more() -> None:
    turns = Turns()
    ref = turns.begin().ref
    for verb in (Speak, Flush, End, Flush, Cancel):
        turns.step(ref, verb)
    for verb in (Speak, Flush, End, Cancel):
        with pytest.raises(LocalProtocolError, match=f"{verb.__name__} on turn 1, which is clearing"):
            turns.step(ref, verb)
    turn = turns.step(ref, Cancelled)
    turns.finish(turn)
    assert (turn.phase, turns.live) == (Phase.DONE, {})
    with pytest.raises(LocalProtocolError, match="Ended on turn 1, which is done"):
        turns.step(ref, Ended)


def test_a_turn_speaks_under_its_own_name_and_then_under_others() -> None:
    turns = Turns()
    first, second = turns.begin(), turns.begin()
    assert [turns.begin_context(first), turns.begin_context(second)] == [1, 2]
    turns.end_context(first)
    assert turns.begin_context(first) == 3
    assert turns.named(AudioChunk(b"", 3)) == AudioChunk(b"", 1)
    assert turns.named(AudioChunk(b"", 1)) == AudioChunk(b"", 0)  # of no turn: that context is over
    assert turns.named(AudioChunk(b"")) == AudioChunk(b"")
    assert turns.named(Warned("code", "text")) == Warned("code", "text")
    turns.finish(first)
    assert (turns.contexts, turns.of(None), turns.of(1)) == ({2: second}, second, None)


def test_the_place_of_an_interruption_counts_all_turns_and_grows() -> None:
    position = Position()
    position.over(5_000, None)
    assert position.of(700) == 5_700
    position.over(2_000, 5_700)
    assert [position.of(heard) for heard in (0, 300)] == [None, 6_000]
