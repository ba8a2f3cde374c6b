"""OpenAI's Chat Completions API and its list of models: the LLMs of the settings, which speak where a client asks for it.

https://platform.openai.com/docs/api-reference/chat. Without audio the LLM's bytes are passed on. With audio they are passed on
too, and their text is spoken: chunks with `delta.audio` come between the LLM's own chunks, and the chunks that end an answer
(`finish_reason`, usage, `[DONE]`) come after the last of those.
"""

from __future__ import annotations

import asyncio
import time
from binascii import b2a_base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import msgspec
from aiohttp import ClientResponse, web

from ..audio import AudioFormat, wav_header
from ..errors import Llm2wsError, SlowConsumerError, SourceError
from ..sources.answer import DRAIN_S
from ..sources.aside import Aside
from ..sources.events import last_events
from ..sources.openai import ChatParser, texts_of
from ..sources.relay import Relay, post_to_first
from ..sources.sse import EventDecoder, StreamEvent
from ..sources.text import from_text
from ..speech.utterance.pacing import Pace
from ..turn import Audio, Done, Said
from .api import EVENT_STREAM, JSON, Api, Route
from .body import decode_json, read_body
from .chunks import DONE, ChatAudio, ChatRequest, Writer, ask, completion
from .client_turn import ClientTurn, StopReason, count_tokens, speak_to_client, until_deadline
from .daemon import CLIENT, DAEMON, SERVICE
from .encode import Encoder, encoder
from .problems import Problem, draining_problem, logged_problem
from .sending import event_stream, sse_event, write

__all__ = ["API"]

FORMAT = AudioFormat()  # linear16 at 24 kHz, which OpenAI's API calls pcm16.
EXPIRES_S = 3_600  # When an audio id expires; the daemon keeps nothing under it.
_ERROR_BYTES = 64 * 1024  # How much of an LLM server's refusal is passed on.


async def _completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    asked, fields = decode_json(body, ChatRequest), decode_json(body, dict[str, msgspec.Raw])
    relays = request[SERVICE].relays(asked.model)
    if not asked.spoken:
        return await (_pass_on(request, relays, fields) if relays else _write(request, asked, fields))
    if asked.audio is None:
        raise Problem(400, "audio: it says which voice and format: send both", param="audio", code="missing_required_parameter")
    request[CLIENT].check_speech()
    for name in ("modalities", "audio"):  # They are the daemon's, and not the LLM's.
        fields.pop(name)
    return await (_stream if asked.stream else _whole)(request, relays, asked, asked.audio, fields)


# --- without speech ---------------------------------------------------------------------------------------------------------

# The headers of an LLM server's answer that its client gets. Cookies are none of them.
_PASSED_ON = ("Content-Type", "Retry-After", "X-Should-Retry")


async def _pass_on(request: web.Request, relays: Sequence[Relay], fields: Mapping[str, msgspec.Raw]) -> web.StreamResponse:
    """Pass the answer's bytes on as they come."""
    response = web.StreamResponse()
    try:
        async with until_deadline(request), post_to_first(relays, fields) as (relay, answer):
            if answer.status != 200:
                return await _refused(relay, answer)
            response.headers.update({name: answer.headers[name] for name in _PASSED_ON if name in answer.headers})
            async with aclosing(relay.reads(answer)) as reads:
                async for data in reads:
                    await write(request, response, data)
    except (SourceError, Problem) as exc:
        if not (response.prepared and response.content_type == EVENT_STREAM):
            raise
        await write(request, response, _error_event(exc))
    await write(request, response, b"")
    await response.write_eof()
    return response


async def _refused(relay: Relay, answer: ClientResponse) -> web.Response:
    """Return an LLM server's refusal. Raises Problem for one that is about the daemon's own key, or may hold it."""
    if answer.status in (401, 402, 403) or 300 <= answer.status < 400:
        raise logged_problem(
            SourceError(f"{relay.who} refused a request with {answer.status}", hint="look at its key and address")
        )
    body = await answer.content.read(_ERROR_BYTES)
    if relay.holds_key(body) or answer.content_type != JSON:
        raise logged_problem(
            SourceError(f"{relay.who} answered with {answer.status}", hint="try again later", status=answer.status, retry=True)
        )
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    return web.Response(status=answer.status, body=body, headers=headers)


def _error_event(exc: Llm2wsError | Problem) -> bytes:
    return sse_event({"error": (exc if isinstance(exc, Problem) else logged_problem(exc)).error})


async def _write(request: web.Request, asked: ChatRequest, fields: Mapping[str, msgspec.Raw]) -> web.StreamResponse:
    """Send the answer of an LLM that speaks another protocol."""
    writer, response = Writer(asked.model), event_stream()
    try:
        async with until_deadline(request), aclosing(ask(request[SERVICE], asked, fields)) as items:
            async for item in items:
                if (data := writer.item(item)) and asked.stream:
                    await write(request, response, data)
    except (SourceError, Problem) as exc:
        if not response.prepared:
            raise
        last = _error_event(exc)
    else:
        count_tokens(request.app[DAEMON], writer.usage)
        if not asked.stream:
            return web.json_response(completion(writer))
        last = writer.end(asked)
    await write(request, response, last)
    await response.write_eof()
    return response


# --- with speech ------------------------------------------------------------------------------------------------------------


class _SpokenAnswer:
    """A streamed answer: the LLM's chunks as they come, and chunks of audio between them."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = event_stream()
        self._last_chunks: list[bytes] = []  # The LLM's chunks that end the answer, to be sent after the last audio.
        self._error_passed_on = False  # The LLM failed, and its own words for it are among the last chunks.
        self._head = b""  # The JSON that each chunk of audio begins with.
        self._audio_id = b""

    async def _send(self, data: bytes) -> None:
        await write(self._request, self._response, data)

    async def passed_on(self, relay: Relay, answer: ClientResponse) -> AsyncGenerator[str | Aside, None]:
        """Yield what the LLM's chunks say, and pass them on at the same time, without a task between."""
        decoder, parser = EventDecoder(relay.who), relay.parser()
        async with aclosing(relay.reads(answer)) as reads:
            async for data in reads:
                text, error = await self._pass_on_events(decoder.feed(data), parser)
                yield text  # "" too: it shows that the LLM is at work.
                if error is not None:
                    raise error
                if parser.complete:
                    with suppress(SourceError, TimeoutError):  # Read to the end, so that the connection can be kept.
                        async with asyncio.timeout(DRAIN_S):
                            async for _ in reads:
                                pass
                    break
        text, error = await self._pass_on_events([] if parser.complete else last_events(decoder), parser)
        yield text
        if error is not None:
            raise error
        yield parser.end()

    async def _pass_on_events(self, events: Sequence[StreamEvent], parser: ChatParser) -> tuple[str, SourceError | None]:
        """Pass events on, and keep those that end the answer. Return their text, and the error when the LLM failed."""
        error: SourceError | None = None
        out: list[bytes] = []
        items: list[str | Aside] = []
        for event in events:
            try:
                items += parser.event(event)
            except SourceError as exc:
                error, self._error_passed_on = exc, parser.sent_error
            if not self._head and parser.first:
                self._begin(parser.first)
            if not parser.complete and (error is None or self._error_passed_on):
                ends = parser.reason is not None or error is not None
                # JSON may have several lines, and each of them is a data line of its own.
                (self._last_chunks if ends else out).append(b"data: %b\n\n" % event.data.replace(b"\n", b"\ndata: "))
            if error is not None or parser.complete:
                break
        if out:
            await self._send(b"".join(out))
        return "".join(item for item in items if isinstance(item, str)), error

    async def written(
        self, writer: Writer, items: AsyncGenerator[str | Aside, None], asked: ChatRequest
    ) -> AsyncGenerator[str | Aside, None]:
        """Yield the items, and send the chunks that are made of them."""
        self._begin(writer.head)
        async with aclosing(items):
            async for item in items:
                if data := writer.item(item):
                    await self._send(data)
                yield item
        self._last_chunks.append(writer.end(asked).removesuffix(DONE))

    def _begin(self, first: Mapping[str, object]) -> None:
        """Take the id of the text's first chunk for the audio."""
        given = {name: value for name in ("id", "model") if isinstance(value := first.get(name), str)}
        created = first.get("created")
        base = {"id": "", "model": "", "created": created if isinstance(created, int) else int(time.time())}
        head = {**base, "object": "chat.completion.chunk", **given}
        self._head = msgspec.json.encode(head)[:-1]
        self._audio_id = b'"id":%b,' % msgspec.json.encode(f"audio_{given.get('id', '')}")

    def _audio(self, fields: bytes) -> bytes:
        audio = b'{"audio":{%b%b}}' % (self._audio_id, fields)
        self._audio_id = b""  # The id is in the first chunk alone.
        return b'data: %b,"choices":[{"index":0,"delta":%b,"finish_reason":null}]}\n\n' % (self._head, audio)

    async def speak(self, client_turn: ClientTurn, encode: Encoder) -> None:
        """Send the audio and its transcript as they come. Raises the turn's error, after its last event."""
        has_transcript = False
        async with aclosing(client_turn.events()) as events:
            async for event in events:
                match event:
                    case Audio(data=pcm):
                        data = encode.feed(pcm)
                    case Said(text=text):
                        has_transcript = True
                        await self._send(self._audio(b'"transcript":%b' % msgspec.json.encode(text)))
                        continue
                    case Done():
                        data = encode.finish()
                    case _:
                        continue
                if data:
                    await self._send(self._audio(b'"data":"%b"' % b2a_base64(data, newline=False)))
                if has_transcript and isinstance(event, Done):
                    await self._send(self._audio(b'"expires_at":%d' % (time.time() + EXPIRES_S)))

    async def end(self, client_turn: ClientTurn, error: Llm2wsError | None) -> web.StreamResponse:
        """Send what ends the answer, and where the time went in a comment, which clients skip.

        Raises the error that ended the turn when nothing of the answer has been sent.
        """
        failed: Llm2wsError | Problem | None
        failed = draining_problem() if client_turn.stop_reason is StopReason.SHUTDOWN else error
        parts = self._last_chunks
        if failed is not None and not self._error_passed_on:
            if not self._response.prepared:
                raise failed
            parts = [_error_event(failed)]
        elif failed is None:
            if client_turn.stop_reason is not None:
                choice = {"index": 0, "delta": {}, "finish_reason": "length"}
                parts = [b'data: %b,"choices":[%b]}\n\n' % (self._head, msgspec.json.encode(choice))]
            parts = [*parts, DONE]
        await self._send(b"".join((*parts, b": llm2ws %b\n\n" % msgspec.json.encode(client_turn.waterfall))))
        await self._response.write_eof()
        return self._response


async def _stream(
    request: web.Request, relays: Sequence[Relay], asked: ChatRequest, audio: ChatAudio, fields: Mapping[str, msgspec.Raw]
) -> web.StreamResponse:
    service = request[SERVICE]
    encode = encoder(audio.format, FORMAT, param="audio.format")
    conversation = service.conversation(voice=audio.voice, format=FORMAT, pace=Pace.LISTENER, client=request[CLIENT].name)
    async with AsyncExitStack() as stack:
        answer = _SpokenAnswer(request)
        if relays:
            async with until_deadline(request):
                relay, upstream = await stack.enter_async_context(post_to_first(relays, fields))
                if upstream.status != 200:
                    return await _refused(relay, upstream)
            if upstream.content_type != EVENT_STREAM:
                raise logged_problem(SourceError(f"{relay.who} does not stream", hint="look at its base_url"))
            source = answer.passed_on(relay, upstream)
        else:
            source = answer.written(Writer(asked.model), ask(service, asked, fields), asked)
        error: Llm2wsError | None = None
        async with speak_to_client(request, conversation, source, face="chat") as client_turn:
            try:
                await answer.speak(client_turn, encode)
            except SlowConsumerError:
                raise  # The client reads nothing.
            except Llm2wsError as exc:
                error = exc
        return await answer.end(client_turn, error)


async def _whole(
    request: web.Request, relays: Sequence[Relay], asked: ChatRequest, audio: ChatAudio, fields: Mapping[str, msgspec.Raw]
) -> web.StreamResponse:
    """Return the answer and its speech as one object."""
    service = request[SERVICE]
    name = audio.format
    encode = encoder(name, FORMAT, param="audio.format")
    conversation = service.conversation(voice=audio.voice, format=FORMAT, client=request[CLIENT].name)
    async with until_deadline(request):
        if relays:
            async with post_to_first(relays, fields) as (relay, upstream):
                if upstream.status != 200:
                    return await _refused(relay, upstream)
                body = await _object_of(relay, upstream)
        else:
            writer = Writer(asked.model)
            async with aclosing(ask(service, asked, fields)) as items:
                async for item in items:
                    writer.item(item)
            body = completion(writer)
    match body:
        case {"choices": [{"message": dict() as message} as choice, *_]}:
            pass
        case _:
            raise Problem(502, f"the model {asked.model} gave no answer: try again", code="upstream_error", kind="server_error")
    count_tokens(request.app[DAEMON], body.get("usage"))
    sound, transcript = bytearray(), ""
    text = "".join(texts_of(message.get("content")))
    async with speak_to_client(request, conversation, from_text(text), face="chat") as client_turn:
        async with aclosing(client_turn.events()) as events:
            async for event in events:
                if isinstance(event, Audio):
                    sound += event.data if name == "wav" else encode.feed(event.data)
                elif isinstance(event, Said):
                    transcript += event.text
    data = wav_header(FORMAT, len(sound)) + sound if name == "wav" else bytes(sound + encode.finish())
    if client_turn.stop_reason is StopReason.SHUTDOWN:
        raise draining_problem()
    if client_turn.stop_reason is not None:
        choice["finish_reason"] = "length"
    if transcript:
        message["audio"] = {
            "id": f"audio_{body.get('id', '')}",
            "data": b2a_base64(data, newline=False).decode(),
            "expires_at": int(time.time()) + EXPIRES_S,
            "transcript": transcript.strip(),
        }
    headers = {"Server-Timing": client_turn.server_timing}
    return web.Response(body=msgspec.json.encode(body), content_type=JSON, headers=headers)


async def _object_of(relay: Relay, answer: ClientResponse) -> dict[str, Any]:
    async with aclosing(relay.reads(answer)) as reads:
        data = b"".join([part async for part in reads])
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SourceError(f"{relay.who}: answered with what is no JSON", hint="look at its base_url") from None


# --- the list of models -----------------------------------------------------------------------------------------------------


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm2ws"}


async def _models(request: web.Request) -> web.Response:
    service = request[SERVICE]
    voices = [{"id": name} for name in service.voices]  # Not in OpenAI's API: for clients that offer a choice of them.
    return web.json_response({"object": "list", "data": [_model(name) for name in service.llms], "voices": voices})


async def _model_by_name(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    if name not in request[SERVICE].llms:
        raise Problem(404, "there is no model of that name: GET /v1/models lists them", code="model_not_found", param="model")
    return web.json_response(_model(name))


_SUMMARY = "An LLM's answer, with speech where modalities ask for it"
_COMPLETIONS = Route("POST", "/v1/chat/completions", _completions, _SUMMARY, (JSON, EVENT_STREAM), ChatRequest)
_MODELS = Route("GET", "/v1/models", _models, "The LLMs that can be asked, and the voices")
_MODEL = Route("GET", "/v1/models/{model}", _model_by_name, "One of the LLMs")
API = Api([_COMPLETIONS, _MODELS, _MODEL])
