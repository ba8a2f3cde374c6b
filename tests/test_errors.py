from __future__ import annotations

import inspect

import pytest

from llm2ws import errors
from llm2ws.errors import (
    ConfigError,
    ConnectFailed,
    Llm2wsError,
    LocalProtocolError,
    SinkError,
    SlowConsumerError,
    SourceError,
    SpeechError,
    TurnLost,
)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("what", hint="do"),
        SourceError("what", hint="do", status=500, retry=True),
        SpeechError("what", hint="do"),
        ConnectFailed("what", hint="do", status=401, retry_s=1.0),
        TurnLost("what", hint="do", delivered_s=1.5),
        LocalProtocolError("what", hint="do"),
        SlowConsumerError("what", hint="do", waited_s=60.0),
        SinkError("what", hint="do"),
    ],
)
def test_every_error_says_what_was_wrong_and_what_to_do(error: Llm2wsError) -> None:
    assert str(error) == "what: do"
    assert (error.what, error.hint) == ("what", "do")


def test_without_a_hint_there_is_no_colon() -> None:
    assert str(Llm2wsError("what")) == "what"


def test_the_tree_is_the_one_that_is_drawn() -> None:
    drawn: dict[str, int] = {}
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        if words.startswith("    ") and words.split()[0] in errors.__all__:
            drawn[words.split()[0]] = (len(words) - len(words.lstrip())) // 4
    assert set(drawn) == set(errors.__all__)
    for name, depth in drawn.items():
        assert len([base for base in getattr(errors, name).__mro__ if base.__module__ == errors.__name__]) == depth
