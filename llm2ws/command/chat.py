"""A conversation on the command line: each line is a question that is answered aloud.

The model is reminded of what was heard of its answers, and of nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from ..errors import ConfigError, Llm2wsError
from ..watch.log import turn_id
from .report import decoded, note, show
from .say import SayOptions, Stage, Stdin, llm_client, load_settings, open_stage, speak

if TYPE_CHECKING:
    from ..settings.llms import LlmClient
    from ..sources.prompt import Message

__all__ = ["Chat"]

_READ_BYTES = 65_536


class Chat:
    """A conversation: `run` carries it out, `interrupt` is to be called at each Ctrl+C."""

    def __init__(self, options: SayOptions) -> None:
        self._options = options
        self._messages: list[Message] = []
        self._answering: asyncio.Task[Llm2wsError | None] | None = None
        self._terminal = sys.stdin is not None and sys.stdin.isatty()
        self._unread = b""

    def interrupt(self) -> bool:
        """Stop the answer that is being spoken. Return whether there was one."""
        answering, self._answering = self._answering, None
        return answering is not None and answering.cancel()

    async def run(self) -> int:
        """Answer questions until the end of standard input. Return the exit code.

        On a terminal an answer that fails is reported, and the next question can be asked; elsewhere its error is raised.
        """
        options = self._options
        if options.prompt == "-" or sys.stdin is None:
            raise ConfigError("--chat reads your questions from standard input", hint="leave - out, and keep it open")
        loaded = load_settings(options)
        who, client = llm_client(options, loaded.settings)
        async with AsyncExitStack() as stack:
            stage = await stack.enter_async_context(open_stage(options, loaded, who))
            await stack.enter_async_context(client)
            question = None if options.prompt is None else decoded(options.prompt)
            while (question := question or await self._next_question()) is not None:
                if question.strip():
                    await self._answer(stage, client, question)
                question = None
        return 0

    async def _answer(self, stage: Stage, client: LlmClient, question: str) -> None:
        self._messages.append({"role": "user", "content": question})
        report = self._options.report()
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
        """Return the next line; None at the end of standard input."""
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
