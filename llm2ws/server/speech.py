"""OpenAI's speech API: a text in, audio out while it is made. https://platform.openai.com/docs/api-reference/audio

`instructions` are taken and have no effect: no endpoint here acts on them. The lists of voices and models are what Open WebUI
and Home Assistant's integrations ask for, beside OpenAI's API; Open WebUI asks without its key.
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
from .client_turn import Speaking, Stopped, speaking
from .daemon import CLIENT, SERVICE, Face, Problem, drained, event, problem_of, read_json
from .encode import FORMATS, Encoder, Speed, encoder
from .sending import write

__all__ = ["FACES"]

FORMAT = AudioFormat()  # linear16 at 24 kHz: what OpenAI's API calls pcm
SILENCE_S = 0.1  # what an answer holds that has nothing to say, such as a smiley: players do not take an empty file

# OpenAI's names of models, which many clients offer no choice beyond: the default endpoint, unless [models] says otherwise.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
NOT_MADE = ("opus", "aac", "flac")  # what OpenAI has beside them


class VoiceId(msgspec.Struct, frozen=True):
    """A voice, as OpenAI names those that its users have made."""

    id: str


class SpeechRequest(msgspec.Struct, frozen=True):
    """None is what a client that sets nothing sends: the default."""

    input: Annotated[str, Meta(min_length=1)]
    model: str | None = None
    voice: str | VoiceId | None = None
    response_format: Annotated[str, Meta(extra_json_schema={"enum": list(FORMATS)})] | None = None
    speed: Speed | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: str | None = None  # without effect


class _Body:
    """The answer's body. It begins with the first audio, so that what fails before is an error by its status."""

    def __init__(self, request: web.Request, encode: Encoder, content_type: str, *, events: bool) -> None:
        self._request = request
        self._encode = encode
        self._events = events
        headers = {"Content-Type": "text/event-stream" if events else content_type, "X-Accel-Buffering": "no"}
        self._response = web.StreamResponse(headers=headers)

    async def speak(self, one: Speaking) -> None:
        """All audio of the turn. Raises like its events, and Problem when the turn was stopped."""
        async with aclosing(one.events()) as events:
            async for happened in events:
                if isinstance(happened, Audio):
                    await self._write(one, self._encode.feed(happened.data))
                elif isinstance(happened, Done) and happened.outcome is Outcome.DONE and not happened.stats.audio_s:
                    await self._write(one, self._encode.feed(FORMAT.silence * round(SILENCE_S * FORMAT.sample_rate_hz)))
        if one.stopped is Stopped.SHUTDOWN:
            raise drained()
        if one.stopped is not None:
            message = f"the {one.stopped} of this client is reached: ask for less at once"
            raise Problem(429, message, code="rate_limit_exceeded", kind="rate_limit_error")
        await self._write(one, self._encode.finish())

    async def _write(self, one: Speaking, data: bytes) -> None:
        if not self._response.prepared:
            self._response.headers["Server-Timing"] = one.server_timing
            await self._response.prepare(self._request)
        if data:
            if self._events:
                audio = b2a_base64(data, newline=False).decode()
                data = event({"type": "speech.audio.delta", "audio": audio})
            await write(self._request, self._response, data)

    async def end(self) -> web.StreamResponse:
        """The end of an answer that is complete. Tokens are nothing that a speech endpoint counts."""
        if self._events:
            usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
            await write(self._request, self._response, event({"type": "speech.audio.done", "usage": usage}))
        await self._response.write_eof()
        return self._response

    async def fail(self, problem: Problem) -> web.StreamResponse:
        """The end of one that is not. Raises it where the answer cannot say so: the client sees it break off."""
        if not self._events or not self._response.prepared:
            raise problem
        await write(self._request, self._response, event({"type": "error", "error": problem.error}))
        await self._response.write_eof()
        return self._response


async def _speech(request: web.Request) -> web.StreamResponse:
    asked = await read_json(request, SpeechRequest)
    request[CLIENT].check_text(asked.input)
    name = asked.response_format or "mp3"
    if name in NOT_MADE:
        message = f"response_format: {name} is not made here: give mp3, wav or pcm"
        raise Problem(400, message, param="response_format", code="unsupported_value")
    conversation = _conversation(request[SERVICE], asked)
    body = _Body(request, encoder(name, FORMAT), FORMATS[name], events=asked.stream_format == "sse")
    try:
        async with speaking(request, conversation, from_text(asked.input), face="speech") as one:
            await body.speak(one)
    except SlowConsumerError:
        raise
    except Llm2wsError as exc:
        return await body.fail(problem_of(exc))
    except Problem as exc:
        return await body.fail(exc)
    return await body.end()


def _conversation(service: Service, asked: SpeechRequest) -> Conversation:
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
    # The text is there as a whole: a first clause would be no earlier than the sentence, and cost a Flush of the few there
    # are. Clients that ask for one sentence at a time ran out of them with the seventh.
    policy = None if service.settings.text.policy else Policy.SENTENCE
    voice = asked.voice.id if isinstance(asked.voice, VoiceId) else asked.voice or ""
    try:
        return service.conversation(endpoint, voice=voice, format=FORMAT, speed=asked.speed or 1.0, policy=policy)
    except UnknownName as exc:
        raise Problem(404, f"voice: {exc}", param="voice", code="voice_not_found") from None


def _model_names(service: Service) -> list[str]:
    return list(dict.fromkeys([*service.settings.models, *service.speech, *OPENAI_MODELS]))


async def _voices(request: web.Request) -> web.Response:
    return web.json_response({"voices": [{"id": name, "name": name} for name in request[SERVICE].voices]})


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"models": [{"id": name, "name": name} for name in _model_names(request[SERVICE])]})


FACES = [
    Face([web.post("/v1/audio/speech", _speech)], bodies={"/v1/audio/speech": SpeechRequest}),
    Face([web.get("/v1/audio/voices", _voices), web.get("/v1/audio/models", _models)], public=True),
]
