"""A dialect as small as can be: a vendor is encode, decode and data, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import assert_never

from llm2ws.audio import AudioFormat
from llm2ws.speech.dialect import Limits, Request, Traits
from llm2ws.speech.messages import (
    Audio,
    Begin,
    Cancel,
    Close,
    Command,
    End,
    Ended,
    Event,
    Failed,
    Flush,
    FlushAcked,
    KeepAlive,
    Scope,
    Speak,
    Timed,
    Unknown,
    Word,
)
from llm2ws.text.fragments import Policy

__all__ = ["Contexts"]


class _Plain:
    format = AudioFormat()
    limits = Limits()

    def request(self) -> Request:
        return Request("ws://127.0.0.1:1/")

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        return Failed(Scope.LINK, f"answered HTTP {status}", status=status)

    def closed(self, code: int, reason: str) -> Failed:
        return Failed(Scope.LINK, "closed", code=code, reason=reason)


class Contexts(_Plain):
    """Two turns at once on one socket, each with its name on every message, after ElevenLabs' multi-context socket."""

    name = "contexts"
    policy = Policy.SENTENCE
    traits = Traits(turns_at_once=2, audio_has_ref=True, ends_with_flush_ack=False, keepalive_s=15.0)

    def encode(self, command: Command) -> list[str | bytes]:
        match command:
            case Begin(ref=ref):
                data: dict[str, object] = {"text": " ", "context_id": str(ref), "voice_settings": {"speed": 1}}
            case Speak(ref=ref, text=text):
                data = {"text": text, "context_id": str(ref)}
            case Flush(ref=ref):
                data = {"context_id": str(ref), "flush": True}
            case End(ref=ref) | Cancel(ref=ref):
                data = {"context_id": str(ref), "close_context": True}
            case KeepAlive():
                data = {"text": ""}
            case Close():
                data = {"close_socket": True}
            case _:
                assert_never(command)
        return [json.dumps(data)]

    def decode(self, message: str | bytes) -> list[Event]:
        data = json.loads(message)
        if "contextId" not in data:
            return [Failed(Scope.LINK, data["error"]) if "error" in data else Unknown("no context")]
        ref = int(data["contextId"])
        events: list[Event] = []
        if data.get("audio"):
            events.append(Audio(base64.b64decode(data["audio"]), ref))
        if words := data.get("words"):
            events.append(Timed(tuple(Word(*word) for word in words), ref))
        if data.get("type") == "flush_done":
            events.append(FlushAcked(ref))
        if data.get("isFinal"):
            events.append(Ended(ref))
        if "error" in data:
            events.append(Failed(Scope.CONTEXT, data["error"], retry_s=0.0, ref=ref))
        return events
