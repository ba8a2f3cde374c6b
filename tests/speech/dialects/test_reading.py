from __future__ import annotations

import json
import tomllib
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.described import described
from llm2ws.speech.dialects.reading import holds
from llm2ws.speech.messages import (
    AudioChunk,
    Cancelled,
    Failed,
    FlushAcked,
    Unknown,
)
from tests.speech.dialects.descriptions import SIMPLE, dialect
from tests.speech.strange import JSON


def test_what_comes_is_known_by_the_values_at_its_paths() -> None:
    table = tomllib.loads(SIMPLE.read_text())
    table["receive"]["done"] = {"result": {"parts.0.last": True}}
    table["audio"] = table["audio"] | {"path": "result.parts.0.audio", "when": {}}
    nested = described(table, "x.toml")(Setup("", "", AudioFormat()))
    part = {"audio": "AAEC", "last": True}
    assert nested.decode(json.dumps({"result": {"parts": [part]}})) == [AudioChunk(b"\0\1\2"), FlushAcked()]
    assert nested.decode(json.dumps({"result": {"parts": [part | {"last": False}]}})) == [AudioChunk(b"\0\1\2")]
    assert nested.decode('{"type": "audio.clear"}') == [Cancelled()]
    assert nested.decode('{"result": {"parts": [{"audio": "?"}]}}') == [Unknown("")]
    assert nested.decode('{"result": {"parts": []}, "type": "other"}') == [Unknown("other")]
    assert nested.decode(b"\0\1") == [Unknown("a binary frame")]


def test_an_empty_table_stands_for_any_value() -> None:
    wanted: dict[str, object] = {"result.closed": {}}
    values: list[object] = [{}, {"at": 1}, [], "", 0, False]
    for there in values:
        assert holds({"result": {"closed": there}}, wanted), there
    others: list[object] = [{}, {"result": {}}, {"result": {"closed": None}}, {"result": {"audio": "AAA="}}, {"closed": {}}]
    for message in others:
        assert not holds(message, wanted), message
    assert holds({"anything": 1}, {})
    assert not holds({"result": {"kind": 1}}, {"result": {"kind": 1, "closed": {}}})


def test_its_failures_are_one_line_without_the_key(canary: Callable[[], str]) -> None:
    key = canary()
    simple = dialect(SIMPLE, key=key)
    body = json.dumps({"error": {"message": f"No.\n{key}"}})
    [failed] = simple.decode(json.dumps({"type": "error", **json.loads(body)}))
    assert isinstance(failed, Failed)
    assert (failed.what, failed.retry_s) == ("the endpoint failed (No. ***)", 0.0)
    refused = simple.refused(401, {}, body.encode())
    assert (refused.what, refused.retry_s) == ("answered HTTP 401 (No. ***)", None)
    assert simple.refused(503, {}, b"no JSON").what == "answered HTTP 503"
    assert "***" in simple.closed(1008, key).what
    assert key not in repr(simple) + repr(simple.request())


KINDS = st.sampled_from(["audio.delta", "audio.done", "audio.clear", "error"]) | JSON


@given(
    st.text()
    | st.binary()
    | st.builds(lambda kind, delta: json.dumps({"type": kind, "delta": delta, "error": delta}), KINDS, JSON)
)
def test_no_message_breaks_the_reader(message: str | bytes) -> None:
    dialect(SIMPLE).decode(message)
    dialect(SIMPLE).refused(500, {}, message.encode("utf-8", "replace") if isinstance(message, str) else message)
