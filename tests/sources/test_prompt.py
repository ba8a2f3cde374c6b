"""From a prompt to messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import ConfigError
from llm2ws.sources.prompt import check_template, conversation

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
