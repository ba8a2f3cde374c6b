"""Chat Completions: any LLM of the settings, with speech beside the text where a client asks for it.

https://platform.openai.com/docs/api-reference/chat. Without audio the LLM's bytes are passed on. With it, they are passed on
too, and what they say is spoken: between the LLM's own chunks come chunks with `delta.audio`, and what ends an answer
(`finish_reason`, usage, `[DONE]`) comes after the last of them.
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
from ..sources.sse import Decoder, Event
from ..sources.text import from_text
from ..speech.utterance.pacing import Pace
from ..turn import Audio, Done, Said
from .chunks import DONE, ChatRequest, Writer, ask, completion
from .client_turn import Speaking, Stopped, count_tokens, speaking, until_deadline
from .daemon import CLIENT, DAEMON, SERVICE, Face, Problem, decoded, drained, event, problem_of, read_body
from .encode import Encoder, encoder
from .sending import write

__all__ = ["FACE"]

FORMAT = AudioFormat()  # linear16 at 24 kHz: what OpenAI's API calls pcm16
EXPIRES_S = 3_600  # of an audio id; nothing is kept under it here
_ERROR_BYTES = 64 * 1024  # of an LLM server's refusal, which is passed on


async def _completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    asked, fields = decoded(body, ChatRequest), decoded(body, dict[str, msgspec.Raw])
    relays = request[SERVICE].relays(asked.model)
    if not asked.spoken:
        return await (_pass_on(request, relays, fields) if relays else _written(request, asked, fields))
    if asked.audio is None:
        raise Problem(400, "audio: it says which voice and format: send both", param="audio", code="missing_required_parameter")
    request[CLIENT].check_speech()
    for owned in ("modalities", "audio"):
        fields.pop(owned)
    return await (_stream if asked.stream else _whole)(request, relays, asked, fields)


# --- without speech ---------------------------------------------------------------------------------------------------------

# Of an answer's headers, what the client is told. Not the cookies.
_PASSED_ON = ("Content-Type", "Retry-After", "X-Should-Retry")


async def _pass_on(request: web.Request, relays: Sequence[Relay], fields: Mapping[str, msgspec.Raw]) -> web.StreamResponse:
    """The answer's bytes as they come."""
    response = web.StreamResponse()
    try:
        async with until_deadline(request), post_to_first(relays, fields) as (relay, answer):
            if answer.status != 200:
                return await _refused(relay, answer)
            response.headers.update({name: answer.headers[name] for name in _PASSED_ON if name in answer.headers})
            async with aclosing(relay.reads(answer)) as reads:
                async for data in reads:
                    await _send(request, response, data)
    except (SourceError, Problem) as exc:
        if not (response.prepared and response.content_type == "text/event-stream"):
            raise
        await _send(request, response, _error_event(exc))
    await _send(request, response, b"")
    await response.write_eof()
    return response


async def _refused(relay: Relay, answer: ClientResponse) -> web.Response:
    """What an LLM's server says when it refuses. Of the daemon's own key, the client is told no more than that."""
    if answer.status in (401, 402, 403) or 300 <= answer.status < 400:
        raise problem_of(SourceError(f"{relay.who} refused a request with {answer.status}", hint="look at its key and address"))
    body = await answer.content.read(_ERROR_BYTES)
    if relay.holds_key(body) or answer.content_type != "application/json":
        raise problem_of(
            SourceError(f"{relay.who} answered with {answer.status}", hint="try again later", status=answer.status, retry=True)
        )
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    return web.Response(status=answer.status, body=body, headers=headers)


def _error_event(exc: Llm2wsError | Problem) -> bytes:
    return event({"error": (exc if isinstance(exc, Problem) else problem_of(exc)).error})


async def _written(request: web.Request, asked: ChatRequest, fields: Mapping[str, msgspec.Raw]) -> web.StreamResponse:
    """The answer of an LLM that speaks another protocol."""
    writer, response = Writer(asked.model), _event_stream()
    try:
        async with until_deadline(request), aclosing(ask(request[SERVICE], asked, fields)) as items:
            async for item in items:
                if (data := writer.item(item)) and asked.stream:
                    await _send(request, response, data)
    except (SourceError, Problem) as exc:
        if not response.prepared:
            raise
        last = _error_event(exc)
    else:
        count_tokens(request.app[DAEMON], writer.usage)
        if not asked.stream:
            return web.json_response(completion(writer))
        last = writer.end(asked)
    await _send(request, response, last)
    await response.write_eof()
    return response


def _event_stream() -> web.StreamResponse:
    return web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """The answer begins with the first of it, so that what fails before is an error by its status."""
    if not response.prepared:
        await response.prepare(request)
    if data:
        await write(request, response, data)


# --- with speech ------------------------------------------------------------------------------------------------------------


class _Answer:
    """An answer on its way to the client: the LLM's chunks as they come, and chunks of audio between them."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = _event_stream()
        self._kept: list[bytes] = []  # what ends an answer: for after the last audio
        self._told = False  # that the LLM failed, in its own words, which are passed on
        self._head = b""
        self._audio_id = b""

    async def _send(self, data: bytes) -> None:
        await _send(self._request, self._response, data)

    async def passed_on(self, relay: Relay, answer: ClientResponse) -> AsyncGenerator[str | Aside, None]:
        """A source: what the LLM's chunks say. They are passed on at the same time, without a task between."""
        decoder, parser = Decoder(relay.who), relay.parser()
        async with aclosing(relay.reads(answer)) as reads:
            async for data in reads:
                text, error = await self._pass_on(decoder.feed(data), parser)
                yield text  # "" too: a sign of life
                if error is not None:
                    raise error
                if parser.complete:
                    with suppress(SourceError, TimeoutError):  # so that its connection can be kept
                        async with asyncio.timeout(DRAIN_S):
                            async for _ in reads:
                                pass
                    break
        text, error = await self._pass_on([] if parser.complete else last_events(decoder), parser)
        yield text
        if error is not None:
            raise error
        yield parser.end()

    async def _pass_on(self, events: Sequence[Event], parser: ChatParser) -> tuple[str, SourceError | None]:
        """Pass events on to the client, but for what ends the answer. Return their text, and how the LLM failed."""
        error: SourceError | None = None
        out: list[bytes] = []
        items: list[str | Aside] = []
        for one in events:
            try:
                items += parser.event(one)
            except SourceError as exc:
                error, self._told = exc, parser.told
            if not self._head and parser.first:
                self._begin(parser.first)
            if not parser.complete and (error is None or self._told):
                ends = parser.reason is not None or error is not None
                # A JSON may stand on several lines, each of which is a line of data.
                (self._kept if ends else out).append(b"data: %b\n\n" % one.data.replace(b"\n", b"\ndata: "))
            if error is not None or parser.complete:
                break
        if out:
            await self._send(b"".join(out))
        return "".join(item for item in items if isinstance(item, str)), error

    async def written(
        self, writer: Writer, items: AsyncGenerator[str | Aside, None], asked: ChatRequest
    ) -> AsyncGenerator[str | Aside, None]:
        """A source: the items, with chunks made of them."""
        self._begin(writer.head)
        async with aclosing(items):
            async for item in items:
                if data := writer.item(item):
                    await self._send(data)
                yield item
        self._kept.append(writer.end(asked).removesuffix(DONE))

    def _begin(self, first: Mapping[str, object]) -> None:
        """Audio goes under the same id as the text."""
        given = {name: value for name in ("id", "model") if isinstance(value := first.get(name), str)}
        created = first.get("created")
        base = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created if isinstance(created, int) else int(time.time()),
        }
        self._head = msgspec.json.encode({**base, "model": "", **given})[:-1]
        self._audio_id = b'"id":%b,' % msgspec.json.encode(f"audio_{given.get('id', '')}")

    def _audio(self, fields: bytes) -> bytes:
        name, self._audio_id = self._audio_id, b""  # in the first chunk alone
        return b'data: %b,"choices":[{"index":0,"delta":{"audio":{%b%b}},"finish_reason":null}]}\n\n' % (
            self._head,
            name,
            fields,
        )

    async def speak(self, one: Speaking, encode: Encoder) -> None:
        """Audio and what it says, as they come. Raises like the turn's events, after the last of them."""
        begun = False
        async with aclosing(one.events()) as events:
            async for happened in events:
                match happened:
                    case Audio(data=pcm):
                        data = encode.feed(pcm)
                    case Said(text=text):
                        begun = True
                        await self._send(self._audio(b'"transcript":%b' % msgspec.json.encode(text)))
                        continue
                    case Done():
                        data = encode.finish()
                    case _:
                        continue
                if data:
                    await self._send(self._audio(b'"data":"%b"' % b2a_base64(data, newline=False)))
                if begun and isinstance(happened, Done):
                    await self._send(self._audio(b'"expires_at":%d' % (time.time() + EXPIRES_S)))

    async def end(self, one: Speaking, error: Llm2wsError | None) -> web.StreamResponse:
        """What ends an answer, and where the time went: in a comment, which no client reads for an event.

        Raises what ended it before anything of it was sent.
        """
        failed: Llm2wsError | Problem | None = drained() if one.stopped is Stopped.SHUTDOWN else error
        parts = self._kept
        if failed is not None and not self._told:
            if not self._response.prepared:
                raise failed
            parts = [_error_event(failed)]
        elif failed is None:
            if one.stopped is not None:
                choice = {"index": 0, "delta": {}, "finish_reason": "length"}
                parts = [b'data: %b,"choices":[%b]}\n\n' % (self._head, msgspec.json.encode(choice))]
            parts = [*parts, DONE]
        await self._send(b"".join((*parts, b": llm2ws %b\n\n" % msgspec.json.encode(one.waterfall))))
        await self._response.write_eof()
        return self._response


async def _stream(
    request: web.Request, relays: Sequence[Relay], asked: ChatRequest, fields: Mapping[str, msgspec.Raw]
) -> web.StreamResponse:
    assert asked.audio is not None
    service = request[SERVICE]
    encode = encoder(asked.audio.format, FORMAT, param="audio.format")
    conversation = service.conversation(voice=asked.audio.voice, format=FORMAT, pace=Pace.LISTENER)
    async with AsyncExitStack() as stack:
        answer = _Answer(request)
        if relays:
            async with until_deadline(request):
                relay, upstream = await stack.enter_async_context(post_to_first(relays, fields))
                if upstream.status != 200:
                    return await _refused(relay, upstream)
            if upstream.content_type != "text/event-stream":
                raise problem_of(SourceError(f"{relay.who} does not stream", hint="look at its base_url"))
            source = answer.passed_on(relay, upstream)
        else:
            source = answer.written(Writer(asked.model), ask(service, asked, fields), asked)
        error: Llm2wsError | None = None
        one: Speaking | None = None
        try:
            async with speaking(request, conversation, source, face="chat") as one:
                await answer.speak(one, encode)
        except SlowConsumerError:
            raise  # there is nobody to be told
        except Llm2wsError as exc:
            error = exc
        assert one is not None
        return await answer.end(one, error)


async def _whole(
    request: web.Request, relays: Sequence[Relay], asked: ChatRequest, fields: Mapping[str, msgspec.Raw]
) -> web.StreamResponse:
    """The answer, then its speech, in one object."""
    assert asked.audio is not None
    service = request[SERVICE]
    name = asked.audio.format
    encode = encoder(name, FORMAT, param="audio.format")
    conversation = service.conversation(voice=asked.audio.voice, format=FORMAT)
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
    audio, transcript = bytearray(), ""
    async with speaking(request, conversation, from_text("".join(texts_of(message.get("content")))), face="chat") as one:
        async with aclosing(one.events()) as events:
            async for happened in events:
                if isinstance(happened, Audio):
                    audio += happened.data if name == "wav" else encode.feed(happened.data)
                elif isinstance(happened, Said):
                    transcript += happened.text
    data = wav_header(FORMAT, len(audio)) + audio if name == "wav" else bytes(audio + encode.finish())
    if one.stopped is Stopped.SHUTDOWN:
        raise drained()
    if one.stopped is not None:
        choice["finish_reason"] = "length"
    if transcript:
        message["audio"] = {
            "id": f"audio_{body.get('id', '')}",
            "data": b2a_base64(data, newline=False).decode(),
            "expires_at": int(time.time()) + EXPIRES_S,
            "transcript": transcript.strip(),
        }
    timing = ", ".join(f"{step.removesuffix('_s')};dur={seconds * 1000:.0f}" for step, seconds in one.waterfall.items())
    return web.Response(body=msgspec.json.encode(body), content_type="application/json", headers={"Server-Timing": timing})


async def _object_of(relay: Relay, answer: ClientResponse) -> dict[str, Any]:
    async with aclosing(relay.reads(answer)) as reads:
        data = b"".join([part async for part in reads])
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SourceError(f"{relay.who}: answered with what is no JSON", hint="look at its base_url") from None


FACE = Face([web.post("/v1/chat/completions", _completions)], bodies={"/v1/chat/completions": ChatRequest})
