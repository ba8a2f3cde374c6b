from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm2ws.speech.session.counts import UNKNOWN_KINDS, Counts


@given(st.lists(st.integers(0, 2 * UNKNOWN_KINDS).map(str)))
def test_every_unknown_message_is_counted_under_a_bounded_number_of_names(kinds: list[str]) -> None:
    counts = Counts()
    for kind in kinds:
        counts.count_unknown(kind)
    assert sum(counts.unknown.values()) == len(kinds)
    assert len(counts.unknown) <= UNKNOWN_KINDS + 1
    first = list(dict.fromkeys(kinds))[:UNKNOWN_KINDS]
    assert {kind: kinds.count(kind) for kind in first} == {kind: n for kind, n in counts.unknown.items() if kind != "others"}


def test_only_what_happened_is_shown() -> None:
    assert str(Counts()) == "nothing"
    counts = Counts(stale_acks=2)
    counts.count_unknown("Later")
    assert str(counts) == "stale_acks 2, unknown {'Later': 1}"
