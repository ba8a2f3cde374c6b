"""Chat Completions passed on: a client's request with the model's name and key put in, the answer as bytes.

Plain aiohttp and not the SDK, because nothing of request or answer is to be understood on the way: at a token's pace it costs
two thirds of what the SDK's raw responses cost.
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

SECRET_BYTES = 16  # shorter keys are taken for words such as "ollama" and "none", which clients of local servers need

# What a server says when the same request may succeed elsewhere, beside all errors of its own.
_ELSEWHERE = (408, 409, 429)

_CLIENTS = ("stream", "stream_options")  # how the answer comes: who reads it says so

_COMMENT = re.compile(rb"^:.*\n", re.MULTILINE)  # of server-sent events: what keeps a connection open


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
        """For one answer: what its chunks say."""
        return ChatParser(self._endpoint)

    def holds_key(self, body: bytes) -> bool:
        """Whether the server repeated its key: such a body is not passed on."""
        return bool(self._key) and self._key in body

    def _repeats_key(self, data: bytes) -> bool:
        """The same of an answer. A key such as "ollama" is no secret, and stands in answers; but not what is said of it."""
        return self.holds_key(data) and (len(self._key) >= SECRET_BYTES or b'"error":' in data)

    @asynccontextmanager
    async def post(self, fields: Mapping[str, msgspec.Raw]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request. `fields`: as the client sent them; the model's name is put in, and the settings' own defaults.

        The response is closed with the block, and the server sees it. Raises SourceError when there is none.
        """
        import aiohttp

        if self._session is None:
            raise LocalProtocolError("Relay was not entered", hint="use it with `async with`")
        body = msgspec.json.encode({**self._defaults(fields), **fields, **self._own(fields)})
        url = f"{self._endpoint.url}/chat/completions"
        caught = (aiohttp.ClientError, OSError)
        response: aiohttp.ClientResponse | None = None
        error: SourceError | None = None
        for is_last in (False, True):
            try:
                async with asyncio.timeout(self._settings.first_token_s):
                    response = await self._session.post(url, data=body, allow_redirects=False)
                break
            except aiohttp.ServerDisconnectedError as exc:
                if is_last:  # else it was a kept connection that had just ended
                    error = broken(self._endpoint, exc)
            except TimeoutError:
                error = silent(self._endpoint, None)
                break
            except caught as exc:
                error = broken(self._endpoint, exc)
                break
        if response is None:
            assert error is not None
            raise error
        try:
            yield response
        finally:
            response.close()

    async def reads(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body as it comes.

        Raises SourceError when it breaks off, when it repeats the key, and when nothing comes in time while it is waited for:
        how long the caller takes for what has come does not count.
        """
        import aiohttp

        loop = asyncio.get_running_loop()
        settings = self._settings
        first_by = loop.time() + settings.first_token_s
        head, started = b"", False  # until more than comments and empty lines have come; `head`: a comment has not ended
        held = b""  # what may be the beginning of the key
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
        """What the settings say, of what the client may leave open."""
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
    """As much of the end of `data` as `key` begins with."""
    if data.endswith(b"\n"):  # nearly every read, and no key holds one
        return b""
    return next((key[:n] for n in range(min(len(key) - 1, len(data)), 0, -1) if data.endswith(key[:n])), b"")


@asynccontextmanager
async def post_to_first(
    relays: Sequence[Relay], fields: Mapping[str, msgspec.Raw]
) -> AsyncIterator[tuple[Relay, aiohttp.ClientResponse]]:
    """Like `Relay.post`, to the first of `relays` that answers, and which one that is.

    The next one is asked where there is no answer, or one that says that the server cannot now, and never after an answer has
    begun. The last one's answer is given whatever it is. Raises SourceError when there is none.
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
