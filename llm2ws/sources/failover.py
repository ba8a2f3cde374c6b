"""Several LLMs as one: when the first cannot begin its answer, the next one is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Protocol

from ..errors import SourceError
from .aside import Aside
from .prompt import Prompt

__all__ = ["Failover", "LlmClient", "one_answer"]

SIGN_OF_LIFE_S = 0.1

_log = logging.getLogger("llm2ws.sources")


class LlmClient(Protocol):
    """What answers, kept open for many answers."""

    @property
    def who(self) -> str:
        """The model and where it is, for people."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        """One answer. `extra`: fields of this request that win over the settings, in the words of Chat Completions, whoever
        answers; those that an API has no word for are left out.
        """

    async def models(self) -> list[str] | None:
        """The names of the models that the server has; None: it has no list. Raises SourceError when it cannot be asked."""


async def one_answer(client: LlmClient, prompt: Prompt) -> AsyncGenerator[str | Aside, None]:
    """A source: a client that is opened for one answer and closed after it.

    While it is opened, which may take the time of importing an SDK, "" is given: a sign of life for whoever waits.
    """
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(client))
        stack.push_async_callback(_ended, opening)
        while not (await asyncio.wait((opening,), timeout=SIGN_OF_LIFE_S))[0]:
            yield ""
        await opening
        async with aclosing(client.answer(prompt)) as items:
            async for item in items:
                yield item


async def _ended(opening: asyncio.Task[object]) -> None:
    """Wait for a task to be over, whatever comes of it; it is cancelled."""
    opening.cancel()
    await asyncio.wait((opening,))


class Failover:
    """Clients of LLMs, in the order in which they are asked. The next one is asked only for what may succeed elsewhere.

    A failure that the same request would meet again, such as a refused key, is a mistake to be seen. And after the first word
    or tool call nothing is asked again: two halves of two answers are no answer.
    """

    def __init__(self, clients: Sequence[LlmClient]) -> None:
        self._clients = list(clients)
        self._stack = AsyncExitStack()

    @property
    def who(self) -> str:
        return ", else ".join(client.who for client in self._clients)

    async def __aenter__(self) -> None:
        async with AsyncExitStack() as stack:
            for client in self._clients:
                await stack.enter_async_context(client)
            self._stack = stack.pop_all()

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def models(self) -> list[str] | None:
        return await self._clients[0].models()

    async def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        """One answer, of the first that can begin it."""
        for client in self._clients:
            begun = False
            try:
                async with aclosing(client.answer(prompt, extra=extra)) as items:
                    async for item in items:
                        begun = begun or item != ""
                        yield item
                return
            except SourceError as exc:
                if begun or not exc.retry or client is self._clients[-1]:
                    raise
                _log.warning("%s; the next LLM is asked", exc)
