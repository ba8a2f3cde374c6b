"""Several LLMs as one: if the first cannot begin its answer, the next one is asked."""

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

SIGN_OF_LIFE_S = 0.1  # Between two signs of life while a client is opened.

_log = logging.getLogger("llm2ws.sources")


class LlmClient(Protocol):
    """A client of an LLM, kept open for many answers."""

    @property
    def who(self) -> str:
        """The model and its server, for messages."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        """Return one answer.

        `extra`: fields of this request, which win over the settings. Their names are those of Chat Completions for every API;
        fields that an API does not have are left out.
        """

    async def models(self) -> list[str] | None:
        """Return the names of the server's models, None if it has no list. Raises SourceError if it cannot be asked."""


async def one_answer(client: LlmClient, prompt: Prompt) -> AsyncGenerator[str | Aside, None]:
    """Open a client for one answer, give the answer, and close the client.

    While the client is opened, which may take as long as importing an SDK, "" is given: a sign of life for whoever waits.
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
    """Cancel a task and wait until it is over, whatever its result."""
    opening.cancel()
    await asyncio.wait((opening,))


class Failover:
    """Clients of LLMs, in the order in which they are asked. The next one is asked only after a failure that it may not have.

    A failure that the same request would meet again, such as a refused key, is a mistake that the user has to see. After the
    first word or tool call no other LLM is asked: two halves of two answers are no answer.
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
        """Return one answer, of the first LLM that can begin it."""
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
