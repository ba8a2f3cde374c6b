"""A sink for a WAV file, or a pipe that is read as one."""

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

    The header has the length once the file is closed; in a pipe it says from the start that the length is unknown. `name` and
    `new` are as for RawFile. After an error the file is a whole WAV file of what could be written, or, before any audio, as it
    was: no file where there was none.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | int,
        format: AudioFormat,  # noqa: A002 - the word of every audio API
        *,
        name: str = "",
        new: bool = False,
    ) -> None:
        self.n_bytes = 0  # of audio that was written
        self._format = format
        self._has_header = False
        self._file = RawFile(target, name=name, new=new)
        self._stack = AsyncExitStack()

    @property
    def name(self) -> str:
        """The path, or what messages call the file descriptor."""
        return self._file.name

    async def __aenter__(self) -> Self:
        """Open the target. Raises SinkError when that fails."""
        self.n_bytes, self._has_header = 0, False
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._file)
            if not self._file.has_old_contents:
                await self._write_header()  # so that a full disk is noticed before anything is spoken
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and not self._has_header:
                await self._write_header()
            if kind is not None and not self.n_bytes and self._file.seekable and not self._file.has_old_contents:
                await self._file.empty()
            elif self._has_header and self._file.seekable:
                await self._complete()
        finally:
            await self._stack.__aexit__(kind, exc, trace)

    async def write(self, data: bytes) -> None:
        """Write audio in the file's format. Raises SinkError for a full disk, or a pipe whose reader is gone."""
        if not self._has_header:
            await self._write_header()
        self.n_bytes += len(data)
        await self._file.write(data)

    async def _complete(self) -> None:
        """Write what is left, and in any case the header for as much audio as is in the file: a disk may be full."""
        try:
            if self.n_bytes % 2:
                await self._file.write(b"\0")  # chunks have an even size
            await self._file.flush()
        finally:
            there = max(0, self._file.size - len(wav_header(self._format)))
            there -= there % self._format.sample_bytes
            await self._file.patch(wav_header(self._format, min(self.n_bytes, there)), 0)

    async def _write_header(self) -> None:
        self._has_header = True
        await self._file.write(wav_header(self._format))
        await self._file.flush()
