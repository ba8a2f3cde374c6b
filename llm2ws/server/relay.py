"""The plain relay: a prompt in, server-sent events out, for `curl -N`, fetch, and whatever reads lines.

text {delta}                what the LLM writes, as it writes it
audio {data, format}        with ?audio=1: base64 of 16-bit samples, mono, little endian, at 24 kHz
spoken {start, end, at_s}   the characters of the text (Unicode code points) that begin to be heard, and at which
                            second of the audio
notice {kind, message}      what holds it up, or has changed: delayed by a limit of the speech endpoint, resumed after a lost
                            connection, failed over to another endpoint
error {message, code}       what failed; what came before has been spoken
done {outcome, reason, stats}   always the last: how it ended, why the LLM stopped, and where the time went

The answer is spoken in any case, for `spoken` says what is: without ?audio=1 its audio is not sent, and not waited for.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from ..audio import AudioFormat
from ..errors import Llm2wsError, SlowConsumerError
from ..sources.aside import Aside
from ..sources.prompt import Prompt
from ..speech.utterance.pacing import Pace
from ..turn import Audio, Notice, Said
from .api import EVENT_STREAM, Api, Route
from .body import read_json
from .client_turn import CLIENT_NOTICES, ClientTurn, speak_to_client
from .daemon import CLIENT, SERVICE
from .problems import Problem, logged_problem
from .sending import event_stream, sse_event, write

__all__ = ["API"]

FORMAT = AudioFormat()
FORMAT_NAME = "pcm16"  # Its name in OpenAI's API.
_SWITCH = {"0": False, "1": True, "false": False, "true": True}


# What types cannot express is added to the OpenAPI document, and checked in `question`.
_Message = Annotated[dict[str, Any], Meta(extra_json_schema={"required": ["role"], "properties": {"role": {"type": "string"}}})]


class RelayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request: either `prompt` or `messages`. `llm`, `voice`: names of the settings, "" for the default."""

    prompt: Annotated[str, Meta(extra_json_schema={"pattern": r"\S"})] | None = None
    messages: Annotated[list[_Message], Meta(min_length=1)] | None = None
    llm: str = ""
    voice: str = ""

    def question(self) -> Prompt:
        """Return what to ask the LLM. Raises Problem when there is not exactly one question."""
        if (self.prompt is None) == (self.messages is None):
            raise Problem(400, "body: send either prompt or messages", code="invalid_value")
        if self.prompt is not None:
            if not self.prompt.strip():
                raise Problem(400, "prompt: it is empty: send a text", param="prompt", code="invalid_value")
            return self.prompt
        messages = self.messages or []
        for i, message in enumerate(messages):
            if not isinstance(message.get("role"), str):
                name = f"messages[{i}].role"
                raise Problem(400, f"{name}: send user, assistant or system", param=name, code="invalid_value")
        return messages


class _Events:
    """The server-sent events of one answer."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = event_stream()

    async def send(self, name: str, **data: object) -> None:
        await write(self._request, self.response, sse_event(data, name))

    async def pass_on(self, answer: AsyncGenerator[str | Aside, None]) -> AsyncGenerator[str | Aside, None]:
        """Yield the LLM's answer, and send its text. The turn waits for the sending, so a slow client slows the LLM."""
        async with aclosing(answer):
            async for item in answer:
                if item and isinstance(item, str):  # An empty one shows only that the LLM is at work.
                    await self.send("text", delta=item)
                yield item

    async def speak(self, client_turn: ClientTurn, *, audio: bool) -> str | None:
        """Send what is spoken, and return why the LLM stopped. Raises the turn's error, after its last event."""
        reason = None
        async with aclosing(client_turn.events()) as events:
            async for event in events:
                match event:
                    case Audio(data=data) if audio:
                        await self.send("audio", data=b2a_base64(data, newline=False).decode(), format=FORMAT_NAME)
                    case Said(span=(start, end), at_s=at_s):
                        await self.send("spoken", start=start, end=end, at_s=round(at_s, 3))
                    case Notice(kind=kind, detail=detail) if kind in CLIENT_NOTICES:
                        await self.send("notice", kind=kind, message=detail)
                    case Aside(kind="finish", data=finish):
                        reason = str(finish.get("reason"))
                    case _:
                        pass
        return reason


async def _chat(request: web.Request) -> web.StreamResponse:
    asked = await read_json(request, RelayRequest)
    audio = _SWITCH.get(request.query.get("audio", "0"))
    if audio is None:
        raise Problem(400, "audio: give 1 for events with audio, or leave it out", param="audio", code="invalid_value")
    service = request[SERVICE]
    answer = service.answer(asked.llm, asked.question())
    conversation = service.conversation(
        voice=asked.voice, format=FORMAT, pace=Pace.LISTENER if audio else Pace.NONE, client=request[CLIENT].name
    )
    request[CLIENT].check_speech()
    events = _Events(request)
    reason, problem = None, None
    async with speak_to_client(request, conversation, events.pass_on(answer), face="relay") as client_turn:
        try:
            reason = await events.speak(client_turn, audio=audio)
        except SlowConsumerError:
            raise
        except Llm2wsError as exc:
            if not events.response.prepared:
                raise
            problem = logged_problem(exc)
    if problem is not None:
        await events.send("error", message=problem.message, code=problem.code)
    values = asdict(client_turn.turn.stats).items()
    stats = {name: round(value, 4) if isinstance(value, float) else value for name, value in values}
    await events.send("done", outcome=str(client_turn.stop_reason or client_turn.turn.outcome), reason=reason, stats=stats)
    await events.response.write_eof()
    return events.response


# Which of the fields are required, which their types cannot express.
_EITHER = [
    {"required": [name], "properties": {name: {"type": kind}}} for name, kind in (("prompt", "string"), ("messages", "array"))
]
_SUMMARY = "An answer as events: its text, and what of it is spoken when"
_BODY = Annotated[RelayRequest, Meta(extra_json_schema={"oneOf": _EITHER})]
API = Api([Route("POST", "/chat", _chat, _SUMMARY, (EVENT_STREAM,), _BODY)])
