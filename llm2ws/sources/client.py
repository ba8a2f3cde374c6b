"""What all clients of models have in common: opened once, asked many times, every failure one line."""

from __future__ import annotations

import asyncio
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from ..errors import LocalProtocolError, SourceError
from .answer import Opened, ask
from .aside import Aside
from .faults import no_answer
from .model import ModelSettings, Vendor, resolve
from .prompt import Prompt

__all__ = ["Client"]

# Two threads that import what imports in a circle, as numpy does below tritonclient, get half of it: one at a time.
_IMPORTING = threading.Lock()

RETRY_S = 0.5  # before a request is sent for the second time; then twice as long

T = TypeVar("T")


class Client(ABC):
    """A model behind one API, asked many times over connections that are kept. Use it with `async with`.

    An API is a subclass that says how it is reached, how it is asked and what its errors mean. Raises ConfigError when it is
    made, for settings that cannot be right.
    """

    def __init__(self, settings: ModelSettings, vendor: Vendor) -> None:
        self._settings = settings
        self._endpoint = resolve(settings, vendor)
        self._opened: AsyncExitStack | None = None
        self._caught: tuple[type[Exception], ...] = ()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # In a thread: importing an SDK takes up to a second, in which the speech endpoint is connected.
            self._caught = await asyncio.to_thread(self._loaded)
            await self._connect(stack)
            self._opened = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    @property
    def who(self) -> str:
        """The model and where it is, for people."""
        return self._endpoint.who

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        """One answer. `extra`: fields of this request that win over the settings.

        Text as it comes, then Aside("finish") with `reason` and `usage` in the words of Chat Completions, whoever answers.
        """
        self._check_opened()
        return ask(
            partial(self._ask, prompt, extra or {}),
            self._endpoint,
            self._settings,
            caught=self._caught,
            source_error=self._source_error,
        )

    async def models(self) -> list[str] | None:
        """The names of the models that the server has; None: it has no list. Raises SourceError when it cannot be asked."""
        self._check_opened()
        try:
            return await self._models()
        except self._caught as exc:
            error = self._source_error(exc)
        except (ValueError, KeyError, TypeError):
            error = no_answer(self._endpoint, "something")
        raise error  # not from within `except`: the SDK's error, which would be its context, may hold the key or the prompt

    def _loaded(self) -> tuple[type[Exception], ...]:
        with _IMPORTING:
            return self._load()

    def _check_opened(self) -> None:
        if self._opened is None:
            raise LocalProtocolError(f"{type(self).__name__} was not entered", hint="use it with `async with`")

    async def _tried(self, send: Callable[[], Awaitable[T]]) -> T:
        """What `send` gives, which is called again as often as the settings allow: what the SDKs do by themselves."""
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
    def _load(self) -> tuple[type[Exception], ...]:
        """Import what is slow to import, and say what it raises when a server cannot be asked or fails. Blocks."""

    @abstractmethod
    async def _connect(self, stack: AsyncExitStack) -> None:
        """Make what keeps connections, and leave it on the stack."""

    @abstractmethod
    async def _ask(self, prompt: Prompt, extra: Mapping[str, object], stack: AsyncExitStack) -> Opened:
        """Send a request, and leave its response on the stack."""

    @abstractmethod
    async def _models(self) -> list[str] | None:
        """The names in the server's list; None: it has none. ValueError, KeyError and TypeError are for a list that is none."""

    @abstractmethod
    def _source_error(self, exc: Exception) -> SourceError:
        """What an exception of those kinds means."""
