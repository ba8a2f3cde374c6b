from __future__ import annotations

import json
from typing import Any

import pytest

from llm2ws.audio import AudioFormat
from llm2ws.errors import LocalProtocolError
from llm2ws.speech.dialect import Dialect, Limits, Setup, Traits
from llm2ws.speech.dialects.cartesia import Cartesia
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_v2 import DeepgramV2
from llm2ws.speech.dialects.elevenlabs import ElevenLabs
from llm2ws.speech.messages import Event, Failed, Scope
from llm2ws.speech.session.session import Session
from tests.support import ROOT

DIALECTS: dict[str, Dialect] = {
    "deepgram": Deepgram(Setup("", "", AudioFormat())),
    "deepgram-v2": DeepgramV2(Setup("", "", AudioFormat())),
    "elevenlabs": ElevenLabs(Setup("", "", AudioFormat())),
    "cartesia": Cartesia(Setup("", "", AudioFormat())),
}
CASES = [
    pytest.param(DIALECTS[path.stem], case["steps"], id=f"{path.stem}: {case['name']}")
    for path in sorted((ROOT / "tests" / "speech" / "data").glob("*.json"))
    for case in json.loads(path.read_text())
]


def shown(event: Event) -> str:
    """An event as the fixtures write it: its name, its scope, its turn, what was spoken."""
    words = [type(event).__name__]
    for name in ("scope", "ref", "text_spoken"):
        value = getattr(event, name, None)
        if value is not None:
            words.append(repr(value) if name == "text_spoken" else str(value))
    return " ".join(words)


@pytest.mark.parametrize(("dialect", "steps"), CASES)
def test_a_conversation_goes_as_written(dialect: Dialect, steps: list[dict[str, Any]]) -> None:
    session, now = Session(dialect, now=0.0), 0.0
    for number, step in enumerate(steps):
        now = step.get("at", now)
        match step:
            case {"do": verb, "refused": True}:
                arguments = [step[name] for name in ("ref", "text") if name in step]
                with pytest.raises(LocalProtocolError):
                    getattr(session, verb)(*arguments, now)
            case {"do": "begin", "ref": ref}:
                assert session.begin(now) == ref, number
            case {"do": "speak", "ref": ref, "text": text}:
                session.speak(ref, text, now)
            case {"do": "flush", "ref": ref}:
                session.flush(ref, now)
            case {"do": "end", "ref": ref, "events": events}:
                assert [shown(event) for event in session.end(ref, now)] == events, number
            case {"do": "cancel", "ref": ref, "events": events}:
                cancelled = session.cancel(ref, now, played_ms=step.get("played_ms"))
                assert [shown(event) for event in cancelled] == events, number
            case {"do": "close"}:
                session.close(now)
            case {"receive": message, "events": events}:
                assert [shown(event) for event in session.receive(json.dumps(message), now)] == events, number
            case {"audio": n_bytes, "events": events}:
                assert [shown(event) for event in session.receive(bytes(n_bytes), now)] == events, number
            case {"sent": messages}:
                assert [json.loads(message) for message in session.outgoing()] == messages, number
            case {"tick": events}:
                assert [shown(event) for event in session.tick(now)] == [e for e in events if e != "-"], number
            case {"deadline": deadline}:
                assert session.next_deadline == deadline, number
            case {"places": places}:
                assert session.places == places, number
            case {"counts": counts}:
                assert {name: getattr(session.counts, name) for name in counts} == counts, number
            case {"unknown": kinds}:
                assert session.counts.unknown == kinds, number
            case _:
                pytest.fail(f"step {number} is not understood: {step}")


def test_what_is_not_allowed_is_refused_by_name() -> None:
    session = Session(DIALECTS["deepgram"], now=0.0)
    ref = session.begin(0.0)
    session.speak(ref, "One. ", 0.0)
    session.end(ref, 0.0)
    with pytest.raises(LocalProtocolError, match="Speak on turn 1, which is ending"):
        session.speak(ref, "Two. ", 0.0)
    with pytest.raises(LocalProtocolError, match="Flush on turn 7, which is done"):
        session.flush(7, 0.0)


def test_an_endpoint_that_cannot_cancel_gets_no_message_and_no_new_turn() -> None:
    class Deaf(DeepgramV2):
        traits = Traits(audio_waits_for_flush=False, ends_with_flush_ack=False, cancels=False)

    session = Session(Deaf(Setup("", "", AudioFormat())), now=0.0)
    ref = session.begin(0.0)
    session.speak(ref, "One. ", 0.0)
    session.outgoing()
    (ended,) = session.cancel(ref, 1.0)  # nothing but the end of the connection stops it, so nobody waits
    assert isinstance(ended, Failed)
    assert (ended.scope, ended.retry_s) == (Scope.LINK, 0.0)
    assert (session.outgoing(), session.places, session.retired) == ([], 0, True)


def test_the_end_of_a_connection_ends_its_turns() -> None:
    session = Session(DIALECTS["deepgram"], now=0.0)
    ref = session.begin(0.0)
    failed = session.receive_close(1011, "NET-0003")
    assert isinstance(failed, Failed)
    assert (failed.scope, failed.retry_s) == (Scope.LINK, 0.0)
    with pytest.raises(LocalProtocolError):
        session.speak(ref, "One. ", 0.0)


def test_limits_of_the_caller_replace_those_of_the_dialect() -> None:
    session = Session(DIALECTS["deepgram"], now=0.0, limits=Limits(chars_per_window=5, window_s=6.0))
    ref = session.begin(0.0)
    session.speak(ref, "12345", 0.0)
    assert session.speak_at(1, 0.0) > 6.0
    assert session.flush_at(0.0) == 0.0
