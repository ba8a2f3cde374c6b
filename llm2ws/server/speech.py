"""OpenAI's speech API: a text in, audio out while it is made.

https://platform.openai.com/docs/api-reference/audio. `instructions` are accepted and have no effect: no speech endpoint acts on
them. The lists of voices and models are no part of OpenAI's API: Open WebUI and Home Assistant's integrations ask for them, and
Open WebUI does so without its key.
"""

from __future__ import annotations

from binascii import b2a_base64
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from ..audio import AudioFormat
from ..errors import Llm2wsError, SlowConsumerError, UnknownName
from ..service import Service
from ..sources.text import from_text
from ..text.fragments import Policy
from ..turn import Audio, Conversation, Done, Outcome
from .api import EVENT_STREAM, Api, Route
from .body import read_json
from .client_turn import ClientTurn, StopReason, speak_to_client
from .daemon import CLIENT, SERVICE
from .encode import FORMATS, Encoder, Speed, encoder
from .problems import Problem, draining_problem, logged_problem
from .sending import sse_event, write

__all__ = ["APIS"]

FORMAT = AudioFormat()  # linear16 at 24 kHz, which OpenAI's API calls pcm.
SILENCE_S = 0.1  # The answer to a text without words, such as "***": players do not accept an empty file.

# OpenAI's names of models; many clients offer no others. They mean the default endpoint, unless [models] has them.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
NOT_MADE = ("opus", "aac", "flac")  # OpenAI's other formats.


class VoiceId(msgspec.Struct, frozen=True):
    """A voice in the form in which OpenAI names those that its users have made."""

    id: str


class SpeechRequest(msgspec.Struct, frozen=True):
    """A request. None means the default, as an absent field does."""

    input: Annotated[str, Meta(min_length=1)]
    model: str | None = None
    voice: str | VoiceId | None = None
    response_format: Annotated[str, Meta(extra_json_schema={"enum": list(FORMATS)})] | None = None
    speed: Speed | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: str | None = None  # Without effect.


class _SpeechBody:
    """The answer: a file of audio, or server-sent events. It begins with the first audio."""

    def __init__(self, request: web.Request, encode: Encoder, content_type: str, *, events: bool) -> None:
        self._request = request
        self._encode = encode
        self._events = events
        headers = {"Content-Type": EVENT_STREAM if events else content_type, "X-Accel-Buffering": "no"}
        self._response = web.StreamResponse(headers=headers)

    async def speak(self, client_turn: ClientTurn) -> None:
        """Send all audio of the turn. Raises the turn's error, and Problem when the daemon ended the turn."""
        async with aclosing(client_turn.events()) as events:
            async for event in events:
                if isinstance(event, Audio):
                    await self._write(client_turn, self._encode.feed(event.data))
                elif isinstance(event, Done) and event.outcome is Outcome.DONE and not event.stats.audio_s:
                    silence = FORMAT.silence * round(SILENCE_S * FORMAT.sample_rate_hz)
                    await self._write(client_turn, self._encode.feed(silence))
        if client_turn.stop_reason is StopReason.SHUTDOWN:
            raise draining_problem()
        if client_turn.stop_reason is not None:
            message = f"the {client_turn.stop_reason} of this client is reached: ask for less at once"
            raise Problem(429, message, code="rate_limit_exceeded", kind="rate_limit_error")
        await self._write(client_turn, self._encode.finish())

    async def _write(self, client_turn: ClientTurn, data: bytes) -> None:
        if not self._response.prepared:
            self._response.headers["Server-Timing"] = client_turn.server_timing
        if data and self._events:
            data = sse_event({"type": "speech.audio.delta", "audio": b2a_base64(data, newline=False).decode()})
        await write(self._request, self._response, data)

    async def end(self) -> web.StreamResponse:
        """End an answer that is complete. Its tokens are 0: speech endpoints count none."""
        if self._events:
            usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
            await write(self._request, self._response, sse_event({"type": "speech.audio.done", "usage": usage}))
        await self._response.write_eof()
        return self._response

    async def fail(self, problem: Problem) -> web.StreamResponse:
        """End an answer that is not complete. Raises the problem where the answer has no place for it."""
        if not self._events or not self._response.prepared:
            raise problem
        await write(self._request, self._response, sse_event({"type": "error", "error": problem.error}))
        await self._response.write_eof()
        return self._response


async def _speech(request: web.Request) -> web.StreamResponse:
    asked = await read_json(request, SpeechRequest)
    request[CLIENT].check_text(asked.input)
    name = asked.response_format or "mp3"
    if name in NOT_MADE:
        message = f"response_format: {name} is not made here: give mp3, wav or pcm"
        raise Problem(400, message, param="response_format", code="unsupported_value")
    conversation = _conversation(request[SERVICE], asked, request[CLIENT].name)
    answer = _SpeechBody(request, encoder(name, FORMAT), FORMATS[name], events=asked.stream_format == "sse")
    try:
        async with speak_to_client(request, conversation, from_text(asked.input), face="speech") as client_turn:
            await answer.speak(client_turn)
    except SlowConsumerError:
        raise
    except Llm2wsError as exc:
        return await answer.fail(logged_problem(exc))
    except Problem as exc:
        return await answer.fail(exc)
    return await answer.end()


def _conversation(service: Service, asked: SpeechRequest, client: str) -> Conversation:
    model = asked.model or ""
    named = service.settings.models.get(model)
    endpoint = named.speech if named else "" if model in OPENAI_MODELS else model
    if endpoint and endpoint not in service.speech:
        raise Problem(
            404,
            f"model: there is none of that name: give one of {', '.join(_model_names(service))}",
            param="model",
            code="model_not_found",
        )
    # The text is complete: speaking its first clause alone would be no earlier than the sentence, and cost one more of the few
    # Flushes that endpoints allow. Clients that ask for one sentence at a time ran out of them with the seventh.
    policy = None if service.settings.text.policy else Policy.SENTENCE
    voice = asked.voice.id if isinstance(asked.voice, VoiceId) else asked.voice or ""
    try:
        speed = asked.speed or 1.0
        return service.conversation(endpoint, voice=voice, format=FORMAT, speed=speed, policy=policy, client=client)
    except UnknownName as exc:
        raise Problem(404, f"voice: {exc}", param="voice", code="voice_not_found") from None


def _model_names(service: Service) -> list[str]:
    return list(dict.fromkeys([*service.settings.models, *service.speech, *OPENAI_MODELS]))


async def _voices(request: web.Request) -> web.Response:
    return web.json_response({"voices": [{"id": name, "name": name} for name in request[SERVICE].voices]})


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"models": [{"id": name, "name": name} for name in _model_names(request[SERVICE])]})


_ANSWERS = ("audio/mpeg", "audio/wav", "audio/pcm", EVENT_STREAM)
_SPEECH = Route("POST", "/v1/audio/speech", _speech, "Speech for a text, while it is made", _ANSWERS, SpeechRequest)
_LISTS = [
    Route("GET", "/v1/audio/voices", _voices, "The names of voices"),
    Route("GET", "/v1/audio/models", _models, "The names of models for speech"),
]
APIS = [Api([_SPEECH]), Api(_LISTS, public=True)]
