"""The plain relay: a prompt in, server-sent events out. For `curl -N`, fetch, and whatever reads lines.

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
from .client_turn import TOLD, Speaking, speaking
from .daemon import CLIENT, SERVICE, Face, Problem, event, problem_of, read_json
from .sending import write

__all__ = ["FACE"]

FORMAT = AudioFormat()
FORMAT_NAME = "pcm16"  # as OpenAI's API calls it
_SWITCH = {"0": False, "1": True, "false": False, "true": True}


# What the types cannot say is said in the document alone, and checked in `question`.
_Message = Annotated[dict[str, Any], Meta(extra_json_schema={"required": ["role"], "properties": {"role": {"type": "string"}}})]


class RelayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either `prompt` or `messages`. `llm`, `voice`: names of the settings, "" for the default."""

    prompt: Annotated[str, Meta(extra_json_schema={"pattern": r"\S"})] | None = None
    messages: Annotated[list[_Message], Meta(min_length=1)] | None = None
    llm: str = ""
    voice: str = ""

    def question(self) -> Prompt:
        """What to ask the LLM. Raises Problem when there is not exactly one question."""
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
    """The answer's events. It begins with the first, so that what fails before is an error by its status."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        self.response = web.StreamResponse(headers=headers)

    async def send(self, name: str, **data: object) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await write(self._request, self.response, event(data, name))

    async def told(self, answer: AsyncGenerator[str | Aside, None]) -> AsyncGenerator[str | Aside, None]:
        """A source: the answer, whose text is told as it passes. The turn waits for it, so nothing is sent before it."""
        async with aclosing(answer):
            async for item in answer:
                if item and isinstance(item, str):  # an empty one is a sign of life
                    await self.send("text", delta=item)
                yield item

    async def speak(self, one: Speaking, *, audio: bool) -> str | None:
        """What is heard of the turn. Gives why the LLM stopped. Raises like the turn's events."""
        reason = None
        async with aclosing(one.events()) as events:
            async for happened in events:
                match happened:
                    case Audio(data=data) if audio:
                        await self.send("audio", data=b2a_base64(data, newline=False).decode(), format=FORMAT_NAME)
                    case Said(span=(start, end), at_s=at_s):
                        await self.send("spoken", start=start, end=end, at_s=round(at_s, 3))
                    case Notice(kind=kind, detail=detail) if kind in TOLD:
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
    conversation = service.conversation(voice=asked.voice, format=FORMAT, pace=Pace.LISTENER if audio else Pace.NONE)
    request[CLIENT].check_speech()
    events = _Events(request)
    one: Speaking | None = None
    reason = None
    try:
        async with speaking(request, conversation, events.told(answer), face="relay") as one:
            reason = await events.speak(one, audio=audio)
    except SlowConsumerError:
        raise
    except Llm2wsError as exc:
        if not events.response.prepared:
            raise
        problem = problem_of(exc)
        await events.send("error", message=problem.message, code=problem.code)
    assert one is not None
    values = asdict(one.turn.stats).items()
    stats = {name: round(value, 4) if isinstance(value, float) else value for name, value in values}
    await events.send("done", outcome=str(one.stopped or one.turn.outcome), reason=reason, stats=stats)
    await events.response.write_eof()
    return events.response


# And this, of the fields together.
_EITHER = [
    {"required": [name], "properties": {name: {"type": kind}}} for name, kind in (("prompt", "string"), ("messages", "array"))
]
FACE = Face([web.post("/chat", _chat)], bodies={"/chat": Annotated[RelayRequest, Meta(extra_json_schema={"oneOf": _EITHER})]})
