"""A WAV file, whole also when it is a pipe."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from ..audio import AudioFormat, wav_header
from .raw import RawFile

__all__ = ["WavFile"]


class WavFile:
    """Writes a WAV file to a path, or to an open file descriptor, which stays open.

    Its header says how long it is once it is closed; in a pipe it says from the start that nobody knows. `new`: the file must
    not exist yet. A file that was left by an error is whole as well: with an error before the first audio, as it was before.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | int,
        format: AudioFormat,  # noqa: A002 - the word of every audio API
        *,
        name: str = "",
        new: bool = False,
    ) -> None:
        self.n_bytes = 0  # of audio
        self._format = format
        self._begun = False
        self._file = RawFile(target, name=name, new=new)
        self._stack = AsyncExitStack()

    @property
    def name(self) -> str:
        """The path, or what the file descriptor is called in messages."""
        return self._file.name

    async def __aenter__(self) -> Self:
        """Raises SinkError when it cannot be opened."""
        self.n_bytes, self._begun = 0, False
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._file)
            if not self._file.holds:
                await self._begin()  # a disk that is full is known before anything is said
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and not self._begun:
                await self._begin()
            if self._begun and self._file.seekable:
                if self.n_bytes % 2:
                    await self._file.write(b"\0")  # chunks have an even size
                await self._file.patch(wav_header(self._format, self.n_bytes), 0)
        finally:
            await self._stack.__aexit__(kind, exc, trace)

    async def write(self, data: bytes) -> None:
        """Write audio in the file's format. Raises SinkError for a full disk, a reader that has gone."""
        if not self._begun:
            await self._begin()
        self.n_bytes += len(data)
        await self._file.write(data)

    async def _begin(self) -> None:
        self._begun = True
        await self._file.write(wav_header(self._format))
        await self._file.flush()
