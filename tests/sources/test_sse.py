"""The decoder of server-sent events: what it makes of bytes, and that it does not matter how they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import SourceError
from llm2ws.sources.sse import Decoder, Event
from tests.sources.replay import DATA

STREAMS = {path.stem: path.read_bytes() for path in sorted(DATA.glob("*.sse"))}


def decoded(*reads: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for read in reads for event in decoder.feed(read)] + decoder.finish()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("", b"a")]),
        (b"data:a\n\ndata:  b\n\n", [Event("", b"a"), Event("", b" b")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [Event("", b"a"), Event("", b"b"), Event("", b"c")]),
        (b"data: a\ndata: b\ndata\ndata: c\n\n", [Event("", b"a\nb\n\nc")]),
        (b"event: ping\ndata: {}\n\ndata: x\n\n", [Event("ping", b"{}"), Event("", b"x")]),
        (b"event: lonely\n\ndata: x\n\n", [Event("", b"x")]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("", b"a")]),  # a mark only at the very start
        (b": comment\n:\n\nid: 7\nretry: 1\nunknown: x\nnonsense\n\ndata: a\n\n", [Event("", b"a")]),
        (b"data:\n\ndata: \n\ndata: a\n\n", [Event("", b"a")]),
        (b"data: [DONE]", [Event("", b"[DONE]")]),
        (b"data: [DONE]\n", [Event("", b"[DONE]")]),
        (b'error: {"code":500}\n\n', [Event("error", b'{"code":500}')]),
        ("data: ü\x85\u2028\n\n".encode(), [Event("", "ü\x85\u2028".encode())]),  # no line ends, though Python's str has them
        (b"", []),
        (b"\n\n\r\r\n", []),
    ],
)
def test_what_it_makes_of_a_stream(stream: bytes, expected: list[Event]) -> None:
    assert decoded(stream) == expected
    assert decoded(*(stream[i : i + 1] for i in range(len(stream)))) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_recorded_streams_cut_at_every_byte(name: str) -> None:
    stream = STREAMS[name]
    expected = decoded(stream)

    assert len(expected) > 2
    for cut in range(len(stream)):
        assert decoded(stream[:cut], stream[cut:]) == expected


LINES = st.sampled_from(
    [b"data: a", b"data:", b"data", b"event: e", b": c", b"error: x", b"", b"data: \xc3\xa9", b"\xef\xbb\xbf"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAM = st.lists(st.tuples(LINES, ENDS), max_size=12).map(lambda lines: b"".join(line + end for line, end in lines))


@given(st.one_of(STREAM, st.binary(max_size=60)), st.lists(st.integers(0, 80), max_size=8))
def test_chunks_do_not_matter(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    assert decoded(*(stream[a:b] for a, b in pairwise(edges))) == decoded(stream)


def test_a_long_line_comes_through() -> None:
    stream = b"data: " + b"x" * 1_000_000 + b"\n\ndata: y\n\n"

    assert decoded(*(stream[i : i + 16_384] for i in range(0, len(stream), 16_384))) == [
        Event("", b"x" * 1_000_000),
        Event("", b"y"),
    ]


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 94, b"data: x\n", b":" * 100])
def test_an_event_without_end_is_an_error(piece: bytes) -> None:
    decoder = Decoder(max_event_bytes=1000)

    with pytest.raises(SourceError, match="more than 1000 bytes"):
        sum(len(decoder.feed(piece)) for _ in range(1000))


def test_many_events_are_no_long_one() -> None:
    decoder = Decoder(max_event_bytes=1000)

    assert sum(len(decoder.feed(b"data: x\n\n" * 50)) for _ in range(100)) == 5000
