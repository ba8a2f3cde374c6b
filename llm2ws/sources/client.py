"""Clients of LLM servers: opened once, asked many times. Every failure is one line.

The official SDKs send requests, with authentication and retries; answers are read from the bytes. Making an SDK's objects of
each chunk costs several times what all the rest of a token costs.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from ..errors import LocalProtocolError, SourceError
from .answer import ResponseStream, ask
from .aside import Aside
from .events import EventParser, EventReader
from .faults import no_answer, of_sdk, transport_errors
from .model import LlmEndpoint, ModelSettings, Vendor, endpoint_of, http_client, resolve
from .prompt import Prompt

if TYPE_CHECKING:
    import anthropic
    import httpx2
    import openai

__all__ = ["ModelClient", "SdkClient", "bytes_of"]

# Two threads that import what imports in a circle, as numpy does below tritonclient, get half of it: one at a time.
_IMPORTING = threading.Lock()

RETRY_S = 0.5  # Before a request is sent for the second time. The time doubles with each further one.

_NO_KEY = "none"  # Servers that ask for no key take any, and the SDKs want one.
_HEADERS = {"Accept-Encoding": "identity"}  # Compressors hold tokens back.

T = TypeVar("T")
Connection = TypeVar("Connection")
Sdk = TypeVar("Sdk", bound="openai.AsyncOpenAI | anthropic.AsyncAnthropic")


class ModelClient(ABC, Generic[Connection]):
    """A model behind one API, asked many times over connections that are kept. Use it with `async with`.

    A subclass says how its API is reached and asked, and what its errors mean. Raises ConfigError when it is made with
    settings that cannot be right.
    """

    def __init__(self, settings: ModelSettings, endpoint: LlmEndpoint) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._stack = AsyncExitStack()
        self._entered: Connection | None = None
        self._caught: tuple[type[Exception], ...] = ()

    async def __aenter__(self) -> Self:
        # In a thread: importing an SDK takes up to a second, in which the speech endpoint is connected.
        connect, self._caught = await asyncio.to_thread(self._loaded)
        self._entered = await self._stack.enter_async_context(connect())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def who(self) -> str:
        """The model and its server, for messages."""
        return self._endpoint.who

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        """Return one answer: text as it comes, then Aside("finish") with `reason` and `usage` as Chat Completions name them.

        `extra`: fields of this request, which win over the settings.
        """
        _ = self._connection
        return ask(
            partial(self._ask, prompt, extra or {}),
            self._endpoint,
            self._settings,
            caught=self._caught,
            source_error=self._source_error,
        )

    async def models(self) -> list[str] | None:
        """Return the names of the server's models, None if it has no list. Raises SourceError if it cannot be asked."""
        _ = self._connection
        try:
            return await self._models()
        except self._caught as exc:
            error = self._source_error(exc)
        except (ValueError, KeyError, TypeError):
            error = no_answer(self._endpoint, "something")
        raise error  # Not from within `except`: the SDK's error, which would be its context, may hold the key or the prompt.

    def share(self, other: Self) -> Self:
        """Use the connections of another client, which stays open. Return this one."""
        self._entered, self._caught = other._entered, other._caught
        return self

    @property
    def _connection(self) -> Connection:
        """What `_load` made. Raises LocalProtocolError outside `async with`."""
        if self._entered is None:
            raise LocalProtocolError(f"{type(self).__name__} was not entered", hint="use it with `async with`")
        return self._entered

    def _loaded(self) -> tuple[Callable[[], AbstractAsyncContextManager[Connection]], tuple[type[Exception], ...]]:
        with _IMPORTING:
            return self._load()

    async def _retry(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return what `send` gives, called again after failures as often as the settings allow. SDKs do so themselves."""
        for attempt in range(self._settings.max_retries):
            try:
                return await send()
            except SourceError as exc:
                if not exc.retry:
                    raise
            except self._caught as exc:
                if not self._source_error(exc).retry:
                    raise
            await asyncio.sleep(RETRY_S * 2**attempt * random.uniform(0.5, 1.0))
        return await send()

    @abstractmethod
    def _load(self) -> tuple[Callable[[], AbstractAsyncContextManager[Connection]], tuple[type[Exception], ...]]:
        """Import what is slow to import. Return what opens the connections, and the errors of a server that fails. Blocks."""

    @abstractmethod
    async def _ask(self, prompt: Prompt, extra: Mapping[str, object], stack: AsyncExitStack) -> ResponseStream:
        """Send a request, and leave its response on the stack."""

    @abstractmethod
    async def _models(self) -> list[str] | None:
        """Return the names in the server's list, None if it has none. Raises ValueError, KeyError or TypeError for no list."""

    @abstractmethod
    def _source_error(self, exc: Exception) -> SourceError:
        """Return what one of the exceptions that `_load` names means."""


class SdkClient(ModelClient[Sdk]):
    """A client on an official SDK. The same generator made both of them.

    `sdk`: a client of the SDK that the caller has made, and closes; None: one is made of the settings.
    """

    _required: ClassVar[tuple[str, ...]] = ()  # Fields of a request that the SDK takes by name only.

    def __init__(self, settings: ModelSettings, vendor: Vendor, sdk: Sdk | None = None) -> None:
        if sdk is None:
            endpoint = resolve(settings, vendor)
        else:  # Clients for clouds have other credentials than a key.
            endpoint = endpoint_of(str(sdk.base_url), getattr(sdk, "api_key", ""), settings, vendor)
        super().__init__(settings, endpoint)
        self._given = sdk
        self._refused: set[str] = set()  # Fields that the server refuses.

    @property
    def server(self) -> object:
        """All that a client of the SDK depends on: clients with the same value may share connections."""
        settings = self._settings
        return type(self), self._endpoint.url, self._endpoint.key, settings.ca_file, settings.max_retries

    def share(self, other: Self) -> Self:
        self._refused = other._refused
        return super().share(other)

    def _load(self) -> tuple[Callable[[], AbstractAsyncContextManager[Sdk]], tuple[type[Exception], ...]]:
        sdk, root = self._make()
        self._create(sdk)  # It imports what it needs.
        opened = cast("AbstractAsyncContextManager[Sdk]", sdk) if self._given is None else nullcontext(sdk)
        return lambda: opened, (root, *transport_errors())

    def _options(self, http: type[httpx2.AsyncClient]) -> dict[str, Any]:
        """Return arguments for the SDK's client. `http`: the SDK's own HTTP client on aiohttp."""
        return {
            "api_key": self._endpoint.key or _NO_KEY,
            "max_retries": self._settings.max_retries,
            "http_client": http_client(http, self._endpoint),
        }

    async def _ask(self, prompt: Prompt, extra: Mapping[str, object], stack: AsyncExitStack) -> ResponseStream:
        return await self._send(self._body(prompt, extra), stack)

    async def _send(self, body: Mapping[str, Any], stack: AsyncExitStack) -> ResponseStream:
        required = {name: body[name] for name in self._required}
        others = {name: value for name, value in body.items() if name not in required}
        request = self._create(self._connection)(**required, stream=True, extra_headers=_HEADERS, extra_body=others)
        answer = await stack.enter_async_context(request)
        response = answer.http_response
        # Bedrock frames events in its own way, which only the SDK reads.
        if response.headers.get("content-type", "").startswith("application/vnd.amazon.eventstream"):
            return ResponseStream(bytes_of(aiter(await answer.parse())), EventReader(self._parser(), self._endpoint))
        # Where nothing is to be unpacked, half of what the SDK's HTTP client does for each read is left out.
        reads = response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw()
        return ResponseStream(reads, EventReader(self._parser(), self._endpoint))

    async def _models(self) -> list[str]:
        listed = json.loads((await self._connection.models.with_raw_response.list()).http_response.content)
        return [str(model["id"]) for model in listed["data"]]

    def _source_error(self, exc: Exception) -> SourceError:
        return of_sdk(exc, self._endpoint)

    @abstractmethod
    def _make(self) -> tuple[Sdk, type[Exception]]:
        """Return the SDK's client, the given one if there is one, and the root of the SDK's exceptions. Blocks."""

    @abstractmethod
    def _create(self, sdk: Sdk) -> Callable[..., AbstractAsyncContextManager[Any]]:
        """Return the SDK's method that sends a request and gives the response as it comes."""

    @abstractmethod
    def _body(self, prompt: Prompt, extra: Mapping[str, object]) -> dict[str, Any]:
        """Return the fields of a request."""

    @abstractmethod
    def _parser(self) -> EventParser:
        """Return what reads the events of one answer."""


async def bytes_of(events: AsyncIterator[Any], first: Any = None) -> AsyncGenerator[bytes, None]:
    """Give an SDK's events as server-sent events, which parsers read. `first`: one that was taken from them already."""
    if first is not None:
        yield _event_bytes(first)
    async for event in events:
        yield _event_bytes(event)


def _event_bytes(event: Any) -> bytes:
    chunk = getattr(event, "chunk", event)  # The helper `chat.completions.stream` wraps the API's own events.
    return b"data: %b\n\n" % chunk.to_json(indent=None).encode()
