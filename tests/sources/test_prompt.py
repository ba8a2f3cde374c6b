"""From a prompt to messages."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm2ws.errors import ConfigError
from llm2ws.sources.prompt import RequestTemplate, check_template, conversation, without_system

USER = {"role": "user", "content": "Why?"}
HISTORY = [USER, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}]


def test_a_prompt_is_one_message_and_a_conversation_stays() -> None:
    assert conversation("Why?") == [USER]
    assert conversation(HISTORY) == HISTORY


def test_the_system_prompt_comes_first() -> None:
    assert conversation("Why?", system="Be brief.") == [{"role": "system", "content": "Be brief."}, USER]


def test_a_template_is_put_around_the_last_message_of_the_user() -> None:
    messages = conversation(HISTORY, system="Be brief.", template="Q: {prompt}\nA:")

    assert [message["content"] for message in messages] == ["Be brief.", "Why?", "So.", "Q: And?\nA:"]
    assert HISTORY[-1]["content"] == "And?"


def test_a_template_that_holds_the_system_prompt_replaces_its_message() -> None:
    messages = conversation("Why?", system="Be brief.", template="<<{system}>> {prompt}")

    assert messages == [{"role": "user", "content": "<<Be brief.>> Why?"}]


@given(st.text())
def test_a_prompt_is_no_template(prompt: str) -> None:
    prompt = "{system}{prompt}{" + prompt

    assert conversation(prompt, system="s", template="{{{prompt}}}")[-1]["content"] == "{{" + prompt + "}}"


def test_a_template_needs_a_place_for_the_prompt() -> None:
    check_template("{prompt}")
    with pytest.raises(ConfigError, match=r"template has no \{prompt\}"):
        check_template("{system}: {Prompt}")


PARTS = [
    {"type": "text", "text": "Look."},
    {"type": "image_url", "image_url": {"url": "data:,"}},
    {"type": "text", "text": "Why?"},
]


def test_where_the_system_prompt_is_no_message() -> None:
    brief = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert without_system([{"role": "system", "content": "Be kind."}, brief, USER]) == ("Be kind.\n\nBe brief.", [USER])
    assert without_system([USER, {"role": "system", "content": None}]) == ("", [USER])


# --- requests of one's own --------------------------------------------------------------------------------------------------


def filled(template: object, messages: list[dict[str, object]], **values: object) -> object:
    return RequestTemplate(json.dumps(template)).filled(messages, values)


def test_a_request_has_values_where_their_names_stand() -> None:
    template = {"q": "{prompt}", "m": "{messages}", "o": {"t": "{temperature}", "n": ["{max_tokens}", 1]}, "x": None}
    system: dict[str, object] = {"role": "system", "content": "s"}
    question: dict[str, object] = {"role": "user", "content": PARTS}

    assert filled(template, [system, question], temperature=0.5) == {
        "q": "Look.\nWhy?",
        "m": [system, question],
        "o": {"t": 0.5, "n": [None, 1]},
        "x": None,
    }


def test_a_system_prompt_with_a_place_of_its_own_is_said_once() -> None:
    system: dict[str, object] = {"role": "system", "content": "s"}
    question: dict[str, object] = {"role": "user", "content": "Why?"}

    assert filled({"m": "{messages}", "s": "{system}"}, [system, question]) == {"m": [question], "s": "s"}
    assert filled({"m": "{messages}", "s": "{system}"}, [question]) == {"m": [question]}


@given(st.text())
def test_a_prompt_cannot_change_the_request(prompt: str) -> None:
    for said in (prompt, "{system}" + prompt, '", "admin": true, "x": "' + prompt):
        assert filled({"q": "{prompt}"}, [{"role": "user", "content": said}], system="s") == {"q": said}


@given(st.dictionaries(st.text(max_size=9), st.lists(st.none() | st.integers() | st.text(max_size=9), max_size=3), max_size=3))
def test_what_is_no_name_stays(value: object) -> None:
    assume(not re.search(r'"\{\w+\}"', json.dumps(value, ensure_ascii=False)))
    assert filled({"q": "{prompt}", "v": value}, [{"role": "user", "content": "?"}]) == {"q": "?", "v": value}
