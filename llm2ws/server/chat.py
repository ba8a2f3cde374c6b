"""Chat Completions: any LLM of the settings, with speech beside the text where a client asks for it.

https://platform.openai.com/docs/api-reference/chat. Without audio the LLM's bytes are passed on. With it, they are passed on
too, and what they say is spoken: between the LLM's own chunks come chunks with `delta.audio`, and what ends an answer
(`finish_reason`, usage, `[DONE]`) comes after the last of them.
"""

from __future__ import annotations

import time
from binascii import b2a_base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import msgspec
from aiohttp import ClientResponse, web

from ..audio import AudioFormat, wav_header
from ..errors import Llm2wsError, SlowConsumerError, SourceError
from ..sources.aside import Aside
from ..sources.relay import Relay, post_to_first
from ..sources.sse import Decoder
from ..sources.text import from_text
from ..speech.pacing import Pace
from ..turn import Audio, Done, Said
from .chunks import DONE, ChatRequest, Writer, ask, completion
from .encode import Encoder, encoder
from .sending import write
from .state import CLIENT, DAEMON, SERVICE, Face, Problem, decoded, drained, event, problem_of, read_body
from .turns import Speaking, Stopped, speaking

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
    async with post_to_first(relays, fields) as (relay, answer):
        if answer.status != 200:
            return await _refused(relay, answer)
        response = web.StreamResponse(headers={name: answer.headers[name] for name in _PASSED_ON if name in answer.headers})
        await response.prepare(request)
        daemon, stopped = request.app[DAEMON], False

        async def stop() -> None:
            nonlocal stopped
            stopped = True
            answer.close()

        daemon.turns.add(stop)
        try:
            async with aclosing(relay.reads(answer)) as reads:
                async for data in reads:
                    await write(request, response, data)
        except SourceError as exc:
            if answer.content_type != "text/event-stream":
                raise
            await write(request, response, _problem_event(drained()) if stopped else _error_event(exc))
        finally:
            daemon.turns.discard(stop)
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


def _error_event(exc: Llm2wsError) -> bytes:
    return _problem_event(problem_of(exc))


def _problem_event(problem: Problem) -> bytes:
    return event({"error": problem.error})


async def _written(request: web.Request, asked: ChatRequest, fields: Mapping[str, msgspec.Raw]) -> web.StreamResponse:
    """The answer of an LLM that speaks another protocol."""
    writer = Writer(asked.model)
    async with aclosing(ask(request[SERVICE], asked, fields)) as items:
        if not asked.stream:
            async for item in items:
                writer.item(item)
            return web.json_response(completion(writer))
        first = await anext(items, None)  # an LLM that cannot be had is an error by its status
        response = await _begin(request)
        try:
            if first is not None:
                await write(request, response, writer.item(first))
            async for item in items:
                if data := writer.item(item):
                    await write(request, response, data)
        except SourceError as exc:
            await write(request, response, _error_event(exc))
        else:
            await write(request, response, writer.end(asked))
        await response.write_eof()
        return response


async def _begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    return response


# --- with speech ------------------------------------------------------------------------------------------------------------


class _Delta(msgspec.Struct, frozen=True):
    content: str | list[msgspec.Raw] | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    """What has to be known of a chunk. It is passed on with all that it holds."""

    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class _Answer:
    """An answer on its way to the client: the LLM's chunks as they come, and chunks of audio between them."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self.usage: _Usage | None = None
        self._kept: list[bytes] = []  # what ends an answer: for after the last audio
        self._failed = False  # the LLM said so itself, in words that are passed on
        self._head = b""
        self._audio_id = b""

    async def passed_on(self, relay: Relay, answer: ClientResponse) -> AsyncGenerator[str, None]:
        """A source: what the LLM's chunks say. They are passed on at the same time, without a task between."""
        decoder = Decoder(relay.who)
        ended = complete = False
        async with aclosing(relay.reads(answer)) as reads:
            async for data in reads:
                out: list[bytes] = []
                texts: list[str] = []
                for one in decoder.feed(data):
                    if one.data.startswith(b"[DONE]"):
                        complete = True
                        continue
                    text, ends = self._read(one.data)
                    if self._failed and relay.holds_key(one.data):
                        raise SourceError(f"{relay.who}: failed in the middle of the answer", hint="try again", retry=True)
                    ended = ended or ends
                    (self._kept if ended else out).append(b"data: %b\n\n" % one.data)
                    if text:
                        texts.append(text)
                if out:
                    await write(self._request, self._response, b"".join(out))
                if texts:
                    yield "".join(texts)
        if self._failed:
            raise SourceError(f"{relay.who}: failed in the middle of the answer", hint="try again", retry=True)
        if not ended and not complete:
            what = f"{relay.who}: the answer ended before it was complete"
            raise SourceError(what, hint="look into the server's log", retry=True)

    async def written(
        self, writer: Writer, items: AsyncGenerator[str | Aside, None], asked: ChatRequest
    ) -> AsyncGenerator[str, None]:
        """A source: the items' text, with chunks made of them."""
        self._begin(writer.id, writer.created, asked.model)
        async with aclosing(items):
            async for item in items:
                if data := writer.item(item):
                    await write(self._request, self._response, data)
                if isinstance(item, str):
                    yield item
        self._kept.append(writer.end(asked).removesuffix(DONE))

    def _read(self, data: bytes) -> tuple[str, bool]:
        """What a chunk adds to the spoken text, and whether it ends the answer."""
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "", False  # nothing that is known here: the client may know it
        if not self._head:
            self._begin(chunk.id, chunk.created, chunk.model)
        if bytes(chunk.error) != b"null":
            self._failed = True
            return "", True
        if chunk.usage is not None:
            self.usage = chunk.usage
        text, ends = "", False
        for choice in chunk.choices or ():
            ends = ends or choice.finish_reason is not None
            if choice.index == 0 and choice.delta is not None and choice.delta.content:
                text += _text_of(choice.delta.content)
        return text, ends

    def _begin(self, chunk_id: str, created: int, model: str) -> None:
        """Audio goes under the same id as the text."""
        base = {"id": chunk_id, "object": "chat.completion.chunk", "created": created or int(time.time()), "model": model}
        self._head = msgspec.json.encode(base)[:-1]
        self._audio_id = b'"id":%b,' % msgspec.json.encode(f"audio_{chunk_id}")

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
                        await write(self._request, self._response, self._audio(b'"transcript":%b' % msgspec.json.encode(text)))
                        continue
                    case Done():
                        data = encode.finish()
                    case _:
                        continue
                if data:
                    await write(self._request, self._response, self._audio(b'"data":"%b"' % b2a_base64(data, newline=False)))
                if begun and isinstance(happened, Done):
                    await write(self._request, self._response, self._audio(b'"expires_at":%d' % (time.time() + EXPIRES_S)))

    async def end(self, one: Speaking, error: Llm2wsError | None) -> None:
        """What ends an answer, and where the time went: in a comment, which no client reads for an event."""
        parts = self._kept
        if one.stopped is Stopped.SHUTDOWN:
            parts = [_problem_event(drained())]
        elif error is not None and not self._failed:
            parts = [_error_event(error)]
        elif error is None:
            if one.stopped is not None:
                choice = {"index": 0, "delta": {}, "finish_reason": "length"}
                parts = [b'data: %b,"choices":[%b]}\n\n' % (self._head, msgspec.json.encode(choice))]
            parts = [*parts, DONE]
        await write(self._request, self._response, b"".join((*parts, b": llm2ws %b\n\n" % msgspec.json.encode(one.waterfall))))
        await self._response.write_eof()


def _text_of(content: str | list[msgspec.Raw]) -> str:
    if isinstance(content, str):
        return content
    text = ""
    for raw in content:  # Mistral's parts, some of which are thinking
        part = msgspec.json.decode(raw)
        if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            text += part["text"]
    return text


async def _stream(
    request: web.Request, relays: Sequence[Relay], asked: ChatRequest, fields: Mapping[str, msgspec.Raw]
) -> web.StreamResponse:
    assert asked.audio is not None
    service = request[SERVICE]
    encode = encoder(asked.audio.format, FORMAT, param="audio.format")
    conversation = service.conversation(voice=asked.audio.voice, format=FORMAT, pace=Pace.LISTENER)
    async with AsyncExitStack() as stack:
        source: AsyncGenerator[str, None]
        if relays:
            relay, upstream = await stack.enter_async_context(post_to_first(relays, fields))
            if upstream.status != 200:
                return await _refused(relay, upstream)
            if upstream.content_type != "text/event-stream":
                raise problem_of(SourceError(f"{relay.who} does not stream", hint="look at its base_url"))
            response = await _begin(request)
            answer = _Answer(request, response)
            source = answer.passed_on(relay, upstream)
        else:
            items = ask(service, asked, fields)
            response = await _begin(request)
            answer = _Answer(request, response)
            source = answer.written(Writer(asked.model), items, asked)
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
        if answer.usage is not None:
            metrics = request.app[DAEMON].metrics
            metrics.tokens("prompt", answer.usage.prompt_tokens)
            metrics.tokens("completion", answer.usage.completion_tokens)
        await answer.end(one, error)
        return response


async def _whole(
    request: web.Request, relays: Sequence[Relay], asked: ChatRequest, fields: Mapping[str, msgspec.Raw]
) -> web.StreamResponse:
    """The answer, then its speech, in one object."""
    assert asked.audio is not None
    service = request[SERVICE]
    name = asked.audio.format
    encode = encoder(name, FORMAT, param="audio.format")
    conversation = service.conversation(voice=asked.audio.voice, format=FORMAT)
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
    choices = body.get("choices")
    message = choices[0].get("message") if choices else None
    if choices is None or not isinstance(message, dict):
        raise Problem(502, f"the model {asked.model} gave no answer: try again", code="upstream_error", kind="server_error")
    audio, transcript = bytearray(), ""
    async with speaking(request, conversation, from_text(str(message.get("content") or "")), face="chat") as one:
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
        choices[0]["finish_reason"] = "length"
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
