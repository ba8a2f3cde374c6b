"""Why an answer ended, in the words of Chat Completions."""

from __future__ import annotations

import pytest

from llm2ws.sources.reasons import is_failure, reason_of


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
        ("function_call", "function_call"),
        ("Moonrise", "Moonrise"),
    ],
)
def test_a_word_that_is_known_becomes_that_of_chat_completions(word: str, reason: str) -> None:
    assert reason_of(word) == reason
    assert not is_failure(word)


@pytest.mark.parametrize("word", ["error", "ERROR", "insufficient_system_resource", "abort", "network_error"])
def test_a_word_that_says_that_the_server_gave_up(word: str) -> None:
    assert is_failure(word)
    assert reason_of(word) == word
