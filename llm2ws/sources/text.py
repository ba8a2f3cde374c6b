"""Sources of text that no LLM writes: a string, an iterable, a file; and `echo`, which answers if no LLM is configured."""

from __future__ import annotations

import asyncio
import codecs
import re
import threading
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Protocol

from ..errors import SourceError
from .terminal import Terminal

__all__ = ["ByteReader", "echo", "from_iterable", "from_stream", "from_text"]

READ_BYTES = 64 * 1024


async def from_text(text: str) -> AsyncGenerator[str, None]:
    """Give a whole text."""
    yield text


async def from_iterable(items: Iterable[str]) -> AsyncGenerator[str, None]:
    """Give the texts of a plain iterable or generator. Each step runs in a thread, so a slow one holds up nothing else.

    A generator that is left before its end is closed, in a thread too, as soon as its current step is over.
    """
    iterator = iter(items)
    end = object()
    step, left = threading.Lock(), threading.Event()

    def take() -> object:
        with step:
            item = next(iterator, end)
        if left.is_set():
            close()
        return item

    def close() -> None:
        if isinstance(iterator, Generator) and step.acquire(blocking=False):  # Else the step closes it at its end.
            try:
                iterator.close()
            finally:
                step.release()

    try:
        while (item := await asyncio.to_thread(take)) is not end:
            yield item  # type: ignore[misc]  # all but `end` are str
    finally:
        left.set()
        asyncio.get_running_loop().run_in_executor(None, close)  # Not waited for: it may take any time.


async def echo(text: str, *, tokens_per_s: float = 40.0) -> AsyncGenerator[str, None]:
    """Give the prompt itself, in tokens at the speed of a model that writes; 0: as fast as they are read."""
    loop = asyncio.get_running_loop()
    due_at = loop.time()
    for token in re.finditer(r"\s*\S{1,6}|\s+", text):
        yield token[0]
        if tokens_per_s > 0:
            due_at += 1 / tokens_per_s
            if (wait_s := due_at - loop.time()) > 0:
                await asyncio.sleep(wait_s)


class ByteReader(Protocol):
    """What bytes are read from: an `asyncio.StreamReader`, or a reader of your own."""

    async def read(self, n: int, /) -> bytes:
        """Return at most `n` bytes, b"" at the end."""


async def from_stream(reader: ByteReader, *, name: str = "standard input") -> AsyncGenerator[str, None]:
    """Give UTF-8 text as it comes, such as from an `asyncio.StreamReader`. A character may be split over two reads.

    Control sequences of terminals are left out, and words that they erase: a word is given when it is complete. Bytes that are
    no UTF-8 are read as U+FFFD. Raises SourceError if reading fails; `name` says where.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
    terminal = Terminal()
    try:
        while data := await reader.read(READ_BYTES):
            if text := terminal.feed(decode(data)):
                yield text
    except Exception as exc:
        if text := terminal.finish():
            yield text
        if not isinstance(exc, OSError):
            raise
        raise SourceError(f"{name}: {exc.strerror or type(exc).__name__}", hint="look at where the text comes from") from exc
    if text := terminal.feed(decode(b"", final=True)) + terminal.finish():
        yield text
