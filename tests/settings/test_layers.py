from __future__ import annotations

from collections.abc import Callable

import pytest

from llm2ws.errors import ConfigError
from tests.settings.reading import load

DRAIN = "it sets how long running answers may go on after SIGTERM"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\ndrain_s = inf", f"server.drain_s: expected float <= 1000000000.0: {DRAIN}"),
        ("[server]\ndrain_s = 1e308", f"server.drain_s: expected float <= 1000000000.0: {DRAIN}"),
        ("[server]\ndrain_s = nan", f"server.drain_s: expected float >= 0.0: {DRAIN}"),
        ("[server]\ndrain_s = -1", f"server.drain_s: expected float >= 0.0: {DRAIN}"),
        ("log = \n", "Invalid value (at line 1, column 7): correct this line"),
        ("[text]\npolcy = 'word'", "text.polcy: no such setting: did you mean text.policy?"),
        ("[txet]\npolicy = 'word'", "txet: no such setting: did you mean text?"),
        ("[speech.x]\nvioce = 'a'", "speech.x.vioce: no such setting: did you mean speech.x.voice?"),
        (
            "[speech.x.limits]\nchars = 3",
            "speech.x.limits.chars: no such setting: did you mean speech.x.limits.chars_per_speak?",
        ),
        ("[text]\nmax_chars = 'many'", "text.max_chars: expected int, got str: it sets the longest fragment"),
        ("[text]\nmax_chars = true", "text.max_chars: expected int, got bool: it sets the longest fragment"),
        ("[text]\nmax_chars = 3", "text.max_chars: expected int >= 20: it sets the longest fragment"),
        ("[text]\npolicy = 'x'", 'text.policy: invalid enum value: give one of "", token, word, clause-first, sentence'),
        ("text = 3", "text: expected a table: write [text]"),
        ("[speech]\nvoice = 'a'", "speech.voice: expected a table: write [speech.<name>]"),
        ("[speech]\nmine = 'a'", "speech.mine: expected a table: write [speech.mine]"),
        ("[[llm]]\nkind = 'echo'", "llm: expected a table: write [llm.<name>]"),
        ("[server]\ninsecure = 'yes'", "server.insecure: expected bool, got str: write true or false"),
        ("[[text]]\n", "text: expected a table: write [text]"),
        ("[voices.alloy]\nspeech = 'local'", "voices.alloy.voice: not set: it sets the voice, in the endpoint's words"),
        ("[voices.alloy]", "voices.alloy.voice: not set: it sets the voice, in the endpoint's words"),
        (
            "[models.tts-1]",
            "models.tts-1.speech: not set: it sets the [speech.<name>] that speaks",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(toml: Callable[[str], str], text: str, message: str) -> None:
    file = toml(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: {message}"
