"""Responses of server-sent events or of one JSON object, paragraphs, and JSON that is nearly JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import SourceError
from llm2ws.sources.aside import Aside
from llm2ws.sources.events import EventReader, Paragraphs, json_of
from llm2ws.sources.model import LlmEndpoint
from llm2ws.sources.openai import VENDOR, ChatParser
from tests.sources.asking import chunk

HERE = LlmEndpoint(VENDOR, "http://127.0.0.1", "127.0.0.1", "m", "", loopback=True)


def joined(*blocks: list[str]) -> str:
    paragraphs = Paragraphs()
    text = ""
    for block in blocks:
        for piece in block:
            text += "".join(map(str, paragraphs.text(piece)))
        paragraphs.end()
    return text


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([["One", " two."], ["Three."]], "One two.\n\nThree."),
        ([["The sky is blue"], [", they say."]], "The sky is blue, they say."),  # citations cut sentences into blocks
        ([["One.\n"], ["Two."]], "One.\nTwo."),
        ([["One."], [" Two."]], "One. Two."),
        ([[""], ["One."], [], ["", "Two."]], "One.\n\nTwo."),
    ],
)
def test_a_block_is_a_paragraph_unless_it_goes_on(blocks: list[list[str]], text: str) -> None:
    assert joined(*blocks) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(), lambda one: st.lists(one), max_leaves=9
)


@given(JSON)
def test_json_is_read(value: object) -> None:
    assert json_of(json.dumps(value).encode(), HERE) == value
    assert json_of(json.dumps(value, ensure_ascii=False).encode(), HERE) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [(b'"A\tB"', "A\tB"), (b'"A\xff"', "A\ufffd"), (rb'"A\ud83d"', "A\ufffd"), (rb'"\ud83c\udf89"', "🎉"), (b"[NaN]", None)],
)
def test_what_servers_write_that_is_not_quite_json(data: bytes, value: object) -> None:
    assert str(json_of(data, HERE)) == (str(value) if value else "[nan]")


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("data", [b"", b"xyzzy", b'{"a": ', b"{} {}", DEEP], ids=["nothing", "a word", "half", "two", "deep"])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(SourceError, match="sent an event that is no JSON") as caught:
        json_of(data, HERE)
    assert caught.value.retry


def items_of(*reads: bytes) -> list[str | Aside]:
    reader = EventReader(ChatParser(HERE), HERE)
    items = [item for data in (*reads, b"") for item in reader.feed(data) if item]
    return [*items, reader.end()]


FINISH = Aside("finish", {"reason": "stop", "usage": None})
WHOLE = {"choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "reads",
    [
        [chunk("Hello.") + chunk(reason="stop") + b"data: [DONE]\n\n"],
        [b"\n", b" \n", *(bytes([byte]) for byte in chunk("Hello.", "stop"))],
        [chunk("Hello.", "stop").strip()],  # the last empty line is missing
        [json.dumps(WHOLE).encode()],
        [b"  ", *(bytes([byte]) for byte in json.dumps(WHOLE).encode())],
    ],
)
def test_a_response_is_read_as_what_it_is_however_it_is_cut(reads: list[bytes]) -> None:
    assert items_of(*reads) == ["Hello.", FINISH]


@pytest.mark.parametrize("body", [b"<html>", b"[1", b'{"a": 1}'])
def test_a_body_that_is_neither_is_no_answer(body: bytes) -> None:
    with pytest.raises(SourceError, match="no answer of a model"):
        items_of(body)
