"""A conversation on the command line: a question a line, each answered aloud. What was not heard is not remembered."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from ..errors import ConfigError, Llm2wsError
from ..watch.log import turn_id
from .report import decoded, note, show
from .say import Asked, Stage, Stdin, llm_client, load_settings, open_stage, speak

if TYPE_CHECKING:
    from ..settings.llms import LlmClient
    from ..sources.prompt import Message

__all__ = ["Chat"]

_READ_BYTES = 65_536


class Chat:
    """`run` it, and at each Ctrl+C ask it to `interrupt`."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._messages: list[Message] = []
        self._answering: asyncio.Task[Llm2wsError | None] | None = None
        self._terminal = sys.stdin is not None and sys.stdin.isatty()
        self._unread = b""

    def interrupt(self) -> bool:
        """Stop the answer. Whether there was one to be stopped."""
        answering, self._answering = self._answering, None
        return answering is not None and answering.cancel()

    async def run(self) -> int:
        """Until the end of standard input. Gives the exit code.

        On a terminal an answer that fails is told, and the next question can be asked; elsewhere its error is raised.
        """
        asked = self._asked
        if asked.prompt == "-" or sys.stdin is None:
            raise ConfigError("--chat reads your questions from standard input", hint="leave - out, and keep it open")
        loaded = load_settings(asked)
        who, client = llm_client(asked, loaded.settings)
        async with AsyncExitStack() as stack:
            stage = await stack.enter_async_context(open_stage(asked, loaded, who))
            await stack.enter_async_context(client)
            question = None if asked.prompt is None else decoded(asked.prompt)
            while (question := question or await self._next_question()) is not None:
                if question.strip():
                    await self._answer(stage, client, question)
                question = None
        return 0

    async def _answer(self, stage: Stage, client: LlmClient, question: str) -> None:
        self._messages.append({"role": "user", "content": question})
        report = self._asked.report()
        with turn_id(os.urandom(4).hex()):
            async with aclosing(client.answer(self._messages)) as source, asyncio.TaskGroup() as tasks:
                task = self._answering = tasks.create_task(speak(stage, source, report))
        self._answering = None
        if report.heard:
            self._messages.append({"role": "assistant", "content": report.heard})
        if not task.cancelled() and (failed := task.result()) is not None:
            if not self._terminal:
                raise failed
            note(str(failed))

    async def _next_question(self) -> str | None:
        """The next line; None at the end of standard input."""
        if self._terminal:
            show("> ")
        reader = Stdin()
        while b"\n" not in self._unread:
            data = await reader.read(_READ_BYTES)
            if not data:
                break
            self._unread += data
        line, newline, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace") if line or newline else None
