"""The decoder of server-sent events: what it makes of bytes, and that it does not matter how they are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import SourceError
from llm2ws.sources.sse import EventDecoder, StreamEvent
from tests.sources.replay import DATA

STREAMS = {path.stem: path.read_bytes() for path in sorted(DATA.glob("*.sse"))}


def decoded(*reads: bytes, data: Literal["json", "text", "outputs"] = "json", names: bool = False) -> list[StreamEvent]:
    decoder = EventDecoder(data=data, names=names)
    return [event for read in reads for event in decoder.feed(read)] + decoder.finish()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [StreamEvent("", b"a")]),
        (b"data:a\n\ndata:  b\n\n", [StreamEvent("", b"a"), StreamEvent("", b" b")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [StreamEvent("", b"a"), StreamEvent("", b"b"), StreamEvent("", b"c")]),
        (b"data: a\ndata: b\ndata\ndata: c\n\n", [StreamEvent("", b"a\nb\n\nc")]),
        (b"event: start\ndata: {}\n\ndata: x\n\n", [StreamEvent("start", b"{}"), StreamEvent("", b"x")]),
        (b"event: ping\ndata: {}\n\nevent: Keep-Alive\ndata: y\n\ndata: x\n\n", [StreamEvent("", b"x")]),
        (b"data: : KEEP\n\ndata::\n\ndata: \t\n\ndata: x\n\n", [StreamEvent("", b"x")]),
        # Lines of JSON are events. What is no JSON by itself is one over several lines.
        (
            b'data: {"a": 1}\ndata: [2]\ndata: [DONE]\n\n',
            [StreamEvent("", b'{"a": 1}'), StreamEvent("", b"[2]"), StreamEvent("", b"[DONE]")],
        ),
        (b'event: e\ndata: {"a": 1}\ndata:\ndata: {}\n', [StreamEvent("e", b'{"a": 1}'), StreamEvent("e", b"{}")]),
        (b'data: {\ndata:  "a": {}\ndata: }\n\ndata: {}\n\n', [StreamEvent("", b'{\n "a": {}\n}'), StreamEvent("", b"{}")]),
        (b'data: {"a":\ndata: 1}\n\n', [StreamEvent("", b'{"a":\n1}')]),
        (b"event: lonely\n\ndata: x\n\n", [StreamEvent("", b"x")]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [StreamEvent("", b"a")]),  # a mark only at the very start
        (b": comment\n:\n\nid: 7\nretry: 1\nunknown: x\nnonsense\n\ndata: a\n\n", [StreamEvent("", b"a")]),
        (b"data:\n\ndata: \n\ndata: a\n\n", [StreamEvent("", b"a")]),
        (b"data: [DONE]", [StreamEvent("", b"[DONE]")]),
        (b"data: [DONE]\n", [StreamEvent("", b"[DONE]")]),
        (b'error: {"code":500}\n\n', [StreamEvent("error", b'{"code":500}')]),
        (
            "data: ü\x85\u2028\n\n".encode(),
            [StreamEvent("", "ü\x85\u2028".encode())],
        ),  # no line ends, though Python's str has them
        (b"", []),
        (b"\n\n\r\r\n", []),
    ],
)
def test_what_it_makes_of_a_stream(stream: bytes, expected: list[StreamEvent]) -> None:
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


@pytest.mark.parametrize("data", ["json", "text", "outputs"])
@given(stream=st.one_of(STREAM, st.binary(max_size=60)), cuts=st.lists(st.integers(0, 80), max_size=8))
def test_chunks_do_not_matter(data: Literal["json", "text", "outputs"], stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    assert decoded(*(stream[a:b] for a, b in pairwise(edges)), data=data) == decoded(stream, data=data)


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"data:The\n\ndata: sea\n\ndata:.\n\n", "The sea."),  # no space is written: it is the text's
        (b"data: The\n\ndata:  sea\n\n", "The sea"),
        (b"data: A\n\ndata: \n\ndata: B\n\n", "A\nB"),  # a token that is a line break
        (b"data: A\r\n\r\ndata:\r\n\r\ndata: B\r\n\r\n", "A\nB"),
        (b"data: A\n\n\n\ndata: B\n\n", "A\n\nB"),  # and two after a token, as they are
        (b"data: A\n\nB\nC: D\n\ndata: E\n\n", "A\n\nB\nC: DE"),  # and within one
        (b"data: A\ndata: B\ndata: C\n\ndata: D\n\n", "A\nB\nCD"),
        (b"data: A\ndata:\ndata: B\n\n", "A\n\nB"),
        (b"data: A \ndata: B", "A \nB"),  # no empty line at all
        (b"\n\n: comment\n\nnonsense\n\ndata: A\n\n: comment\n\nid: 7\nretry: 1\n\ndata: B\n\n", "AB"),
        (b"event: ping\ndata: 2026\ndata: x\n\nevent: e\ndata: A\n\n", "A"),
        (b"data: Note\n\ndata: :\n\ndata:  yes\n\n", "Note: yes"),  # not a comment
        ("data: ü\u2028\n\n".encode(), "ü\u2028"),
    ],
)
def test_text_keeps_its_spaces_and_line_breaks(stream: bytes, text: str) -> None:
    for reads in ((stream,), tuple(stream[i : i + 1] for i in range(len(stream)))):
        assert b"".join(event.data for event in decoded(*reads, data="text")).decode() == text


def test_a_line_of_text_does_not_wait_for_an_empty_line() -> None:
    decoder = EventDecoder(data="text")

    assert [decoder.feed(b"data: %d\n" % n) for n in range(3)] == [[], [StreamEvent("", b"0\n")], [StreamEvent("", b"1\n")]]


def test_outputs_that_repeat_the_text_so_far_are_given_as_a_whole() -> None:
    assert decoded(b"data:A\n\n\ndata: B\ndata: C\n\n", data="outputs") == [StreamEvent("", b"A"), StreamEvent("", b" B\n C")]


def test_names_without_data_are_given_to_whoever_looks_for_them() -> None:
    assert decoded(b"event: end\n\ndata: A\n\nevent: end\n", names=True) == [
        *(StreamEvent("end", b""), StreamEvent("", b"A")),
        StreamEvent("end", b""),
    ]


def test_a_long_line_comes_through() -> None:
    stream = b"data: " + b"x" * 1_000_000 + b"\n\ndata: y\n\n"

    assert decoded(*(stream[i : i + 16_384] for i in range(0, len(stream), 16_384))) == [
        StreamEvent("", b"x" * 1_000_000),
        StreamEvent("", b"y"),
    ]


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 94, b"data: x\n", b":" * 100])
def test_an_event_without_end_is_an_error(piece: bytes) -> None:
    decoder = EventDecoder(max_event_bytes=1000)

    with pytest.raises(SourceError, match="more than 1000 bytes"):
        sum(len(decoder.feed(piece)) for _ in range(1000))


def test_many_events_are_no_long_one() -> None:
    decoder = EventDecoder(max_event_bytes=1000)

    assert sum(len(decoder.feed(b"data: x\n\n" * 50)) for _ in range(100)) == 5000
