from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm2ws.speech.session.acks import Acks


def test_an_ack_answers_the_oldest_flush_and_a_refusal_the_newest() -> None:
    acks = Acks()
    for ref in (1, 1, 2):
        acks.sent(ref)
    assert [acks.waiting(ref) for ref in (1, 2, 3)] == [2, 1, 0]
    assert (acks.refused(None), acks.acked(None), acks.acked(None), acks.acked(None)) == (2, 1, 1, None)


def test_where_acks_have_names_each_answers_its_own() -> None:
    acks = Acks()
    for ref in (1, 2, 2):
        acks.sent(ref)
    assert (acks.acked(2), acks.acked(7), acks.refused(2), acks.refused(2), acks.acked(1)) == (2, None, 2, None, 1)


# Of each turn: how many Flushes, how many of them are acked before it is cancelled, and how many of the others late.
CANCELLED = st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)).map(lambda n: (n[0], min(n[1], n[0]), n[2]))


@given(st.lists(CANCELLED, max_size=6))
def test_an_ack_of_a_cancelled_turn_never_answers_a_flush_of_a_later_one(turns: list[tuple[int, int, int]]) -> None:
    acks = Acks()
    for ref, (sent, acked, late) in enumerate(turns):
        for _ in range(sent):
            acks.sent(ref)
        for _ in range(acked):
            acks.audio()
            assert acks.acked(None) == ref
        acks.void(ref)
        acks.forget(ref)
        for _ in range(min(late, sent - acked)):
            assert acks.acked(None) is None
    acks.sent(99)
    acks.audio()  # after the confirmation of the last Cancel only a new turn has audio
    assert acks.acked(None) == 99
