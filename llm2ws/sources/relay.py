"""Chat Completions passed on: a client's request with the model's name and the key put in, and the answer as bytes.

It uses aiohttp and not the SDK, because neither request nor answer has to be understood on the way. That costs two thirds of
an SDK's raw response per token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from ..errors import LocalProtocolError, SourceError
from .answer import Watchdog
from .faults import broken, silent
from .model import ModelSettings, http_session, resolve
from .openai import LIMITS, VENDOR, ChatParser, defaults
from .prompt import conversation

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Relay", "post_to_first"]

_log = logging.getLogger("llm2ws.sources")

SECRET_BYTES = 16  # Shorter keys are words such as "ollama" and "none", which local servers take.

# Statuses under 500 after which the same request may succeed at another server.
_ELSEWHERE = (408, 409, 429)

# How the answer comes, which is for the client alone to say.
_CLIENTS = ("stream", "stream_options")

_COMMENT = re.compile(rb"^:.*\n", re.MULTILINE)  # A comment between server-sent events, which keeps a connection open.


class Relay:
    """A server that speaks Chat Completions. Use it with `async with`.

    Raises ConfigError when it is made, for settings that cannot be right.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._endpoint = resolve(settings, VENDOR)
        self._key = self._endpoint.key.encode()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        key = self._endpoint.key
        self._session = http_session(self._endpoint, {"Authorization": f"Bearer {key}"} if key else {})
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def who(self) -> str:
        """The model and its server, for messages."""
        return self._endpoint.who

    def parser(self) -> ChatParser:
        """Return a parser for the chunks of one answer."""
        return ChatParser(self._endpoint)

    def holds_key(self, body: bytes) -> bool:
        """Return whether a body holds the key. Such a body is not passed on."""
        return bool(self._key) and self._key in body

    def _repeats_key(self, data: bytes) -> bool:
        """Return whether part of an answer holds the key. A word such as "ollama" may be in an answer, but not in an error."""
        return self.holds_key(data) and (len(self._key) >= SECRET_BYTES or b'"error":' in data)

    @asynccontextmanager
    async def post(self, fields: Mapping[str, msgspec.Raw]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and give the response for the length of the block. The server sees when it is closed.

        `fields`: as the client sent them. The model's name is put in, and the settings' values for fields that are missing.
        Raises SourceError if there is no response.
        """
        if self._session is None:
            raise LocalProtocolError("Relay was not entered", hint="use it with `async with`")
        body = msgspec.json.encode({**self._defaults(fields), **fields, **self._own(fields)})
        response = await self._response(self._session, body)
        if isinstance(response, SourceError):
            raise response
        try:
            yield response
        finally:
            response.close()

    async def _response(self, session: aiohttp.ClientSession, body: bytes) -> aiohttp.ClientResponse | SourceError:
        """Return the response to a request, or why there is none. The second try is for a kept connection that had ended."""
        import aiohttp

        url = f"{self._endpoint.url}/chat/completions"
        try:
            async with asyncio.timeout(self._settings.first_token_s):
                try:
                    return await session.post(url, data=body, allow_redirects=False)
                except aiohttp.ServerDisconnectedError:
                    return await session.post(url, data=body, allow_redirects=False)
        except TimeoutError:
            return silent(self._endpoint, None)
        except (aiohttp.ClientError, OSError) as exc:
            return broken(self._endpoint, exc)

    async def reads(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """Give the body as it comes.

        Raises SourceError if the body breaks off, if it repeats the key, and if a read takes too long. The time that the
        caller takes between two reads does not count.
        """
        import aiohttp

        loop = asyncio.get_running_loop()
        settings = self._settings
        first_by = loop.time() + settings.first_token_s
        # It has started when more than comments and empty lines have come. `head`: the beginning of a comment.
        head, started = b"", False
        held = b""  # This may be the beginning of the key.
        reads = response.content.iter_any()
        try:
            with Watchdog(loop) as watchdog:
                while data := await watchdog.read(reads, loop.time() + settings.stall_s if started else first_by):
                    if not started:
                        head = _COMMENT.sub(b"", head + data).lstrip()[:1]
                        started = head not in (b"", b":")
                    data = held + data if held else data
                    if self._repeats_key(data):
                        if before := b"".join(data.partition(self._key)[0].rpartition(b"\n\n")[:2]):
                            yield before
                        raise SourceError(f"{self.who}: repeats its key in an answer", hint="look into the server's log")
                    held = _end_like(data, self._key)
                    if data := data.removesuffix(held):
                        yield data
        except (aiohttp.ClientError, OSError) as exc:
            error = broken(self._endpoint, exc)
        else:
            if data is not None:
                if held:
                    yield held
                return
            error = silent(self._endpoint, settings.stall_s if started else None)
        raise error

    def _defaults(self, fields: Mapping[str, msgspec.Raw]) -> dict[str, object]:
        """Return the settings' values for fields that the client may leave out."""
        own = defaults(self._endpoint, self._settings)
        left = (*_CLIENTS, *LIMITS) if any(name in fields for name in LIMITS) else _CLIENTS
        return {name: value for name, value in own.items() if name not in left}

    def _own(self, fields: Mapping[str, msgspec.Raw]) -> dict[str, object]:
        own: dict[str, object] = {"model": self._endpoint.model}
        settings, messages = self._settings, fields["messages"]
        if settings.template:
            try:
                asked = msgspec.json.decode(messages, type=list[dict[str, object]])
            except (msgspec.DecodeError, RecursionError):
                raise SourceError(f"{self.who}: messages that cannot be read", hint="send others", status=400) from None
            own["messages"] = conversation(asked, system=settings.system, template=settings.template)
        elif settings.system:
            # In front of the conversation, which is not read: it may be long.
            system = json.dumps({"role": "system", "content": settings.system}).encode()
            rest = bytes(messages).strip().removeprefix(b"[")
            own["messages"] = msgspec.Raw(b"[" + system + (b"" if rest.strip() == b"]" else b",") + rest)
        return own


def _end_like(data: bytes, key: bytes) -> bytes:
    """Return the longest end of `data` with which `key` begins."""
    if data.endswith(b"\n"):  # Nearly every read does, and no key holds one.
        return b""
    return next((key[:n] for n in range(min(len(key) - 1, len(data)), 0, -1) if data.endswith(key[:n])), b"")


@asynccontextmanager
async def post_to_first(
    relays: Sequence[Relay], fields: Mapping[str, msgspec.Raw]
) -> AsyncIterator[tuple[Relay, aiohttp.ClientResponse]]:
    """Send a request as `Relay.post` does, and give the relay that answers and its response.

    The next relay is asked if there is no answer, or one that says that the server cannot answer now, and never after an
    answer has begun. The answer of the last one is given whatever it is. Raises SourceError if there is none.
    """
    async with AsyncExitStack() as stack:
        yield await _first(stack, relays, fields)


async def _first(
    stack: AsyncExitStack, relays: Sequence[Relay], fields: Mapping[str, msgspec.Raw]
) -> tuple[Relay, aiohttp.ClientResponse]:
    for relay in relays[:-1]:
        try:
            response = await stack.enter_async_context(relay.post(fields))
        except SourceError as exc:
            if not exc.retry:
                raise
            _log.warning("%s; the next LLM is asked", exc)
            continue
        if response.status < 500 and response.status not in _ELSEWHERE:
            return relay, response
        response.close()
        _log.warning("%s: %d; the next LLM is asked", relay.who, response.status)
    return relays[-1], await stack.enter_async_context(relays[-1].post(fields))
