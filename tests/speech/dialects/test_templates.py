from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm2ws.speech.dialects.templates import fill, places_in

JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_places_are_filled_however_deep_they_are() -> None:
    template = {"a": "{x}", "b": [{"c": "{y}"}, "{x}"], "d": "text", "e": 1, "f": "{none}", "g": {"h": "{none}"}}
    filled = fill(template, {"{x}": "X", "{y}": 24_000, "{none}": None})
    assert filled == {"a": "X", "b": [{"c": 24_000}, "X"], "d": "text", "e": 1, "g": {}}
    assert template["a"] == "{x}"


@given(
    st.text() | st.sampled_from(["{voice}", '", "type": "Close', "\\", "{text}"]), st.dictionaries(st.text(), JSON, max_size=3)
)
def test_what_a_value_holds_changes_nothing_else(text: str, template: dict[str, object]) -> None:
    filled = fill(template | {"text": "{text}", "in": ["{voice}"]}, {"{text}": text, "{voice}": "ada"})
    assert (filled["text"], filled["in"]) == (text, ["ada"])


def test_what_looks_like_a_place_is_found() -> None:
    assert places_in({"a": "{x}", "b": ["Token {key}", "{", "}", "{ x }"]}, {"c": '"{y}"'}) >= {"{x}", "Token {key}"}
    assert "{y}" not in places_in({"c": "so {y} much"})
