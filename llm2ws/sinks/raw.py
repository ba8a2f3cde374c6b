"""A sink for audio without a header: a file, a pipe or a device file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ..errors import SinkError

__all__ = ["RawFile"]

# Audio for a file is collected, because each write takes a thread. Audio for a pipe is written at once.
_BLOCK_BYTES = 64 * 1024
_PIPE_BYTES = 4096  # that a pipe which is ready to be written takes without blocking, on every system

# What to do about an error of the operating system.
_HINTS = {
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "a part of its path is a file: name another",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room or choose another disk",
    errno.EDQUOT: "make room or choose another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "choose another disk, or say less at once",
    errno.EBADF: "it is closed: give it a file or a pipe",
}

Result = TypeVar("Result")


class RawFile:
    """Writes audio to a path, or to an open file descriptor, which stays open.

    The first write, or a close without an error, removes what a file held before: an error before that keeps it, and leaves no
    file where there was none. `name`: what messages call the target, "" for the target itself. `new`: the file must not exist
    yet. No call blocks the event loop: files are written by a thread, pipes when they are ready.
    """

    def __init__(self, target: str | os.PathLike[str] | int, *, name: str = "", new: bool = False) -> None:
        self.name = name or str(target)
        self.seekable = False  # until it is open, and unless it is a file
        self.has_old_contents = False  # which the first write removes
        self.size = 0  # bytes that are in the file, of all that was written
        self._target = target
        self._new = new
        self._created = False  # whether there was no such file before
        self._fd = -1
        self._is_pipe = False  # or a socket or a terminal: writing waits for a reader
        self._block = bytearray()

    async def __aenter__(self) -> Self:
        """Open the target. Raises SinkError when that fails."""
        if isinstance(self._target, int):
            self._fd = self._target
        else:
            path = Path(self._target)
            self._fd, self._created = await self._try(lambda: _open(path, new=self._new))  # a pipe waits for its reader
        found = await self._try(lambda: os.fstat(self._fd))
        mode = found.st_mode
        self.size = 0
        self.seekable = stat.S_ISREG(mode)
        self.has_old_contents = self.seekable and found.st_size > 0 and not isinstance(self._target, int)
        self._is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._fd)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.flush()
            if kind is None:
                await self._truncate()
        finally:
            fd, self._fd = self._fd, -1  # so that a later write fails, and reaches no file that has the same number by then
            self.seekable = self._is_pipe = False
            if not isinstance(self._target, int):
                os.close(fd)
                if kind is not None and self._created and not self.size:
                    path = self._target
                    with contextlib.suppress(SinkError):  # the error that came before is the one to tell
                        await self._try(lambda: Path(path).unlink())

    async def write(self, data: bytes) -> None:
        """Write audio. Raises SinkError for a full disk, or a pipe whose reader is gone."""
        if self._is_pipe:
            await self._write_when_ready(data)
            return
        self._block += data
        if len(self._block) >= _BLOCK_BYTES or not self.seekable:
            await self.flush()

    async def flush(self) -> None:
        """Write what was collected. Raises SinkError as `write` does."""
        if self._block:
            await self._truncate()
            block, self._block = bytes(self._block), bytearray()
            await self._try(lambda: self._write_all(block))

    async def _truncate(self) -> None:
        if self.has_old_contents:
            self.has_old_contents = False
            await self._try(lambda: os.ftruncate(self._fd, 0))

    async def empty(self) -> None:
        """Remove all that was written to a file that is seekable."""
        self._block.clear()
        await self._try(lambda: os.ftruncate(self._fd, 0))
        self.size = 0

    async def patch(self, data: bytes, at: int) -> None:
        """Overwrite the bytes from the offset `at` of a file that is seekable. What was collected is not written before."""
        await self._try(lambda: os.pwrite(self._fd, data, at))

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            n_bytes = os.write(self._fd, rest)
            self.size += n_bytes
            rest = rest[n_bytes:]

    async def _write_when_ready(self, data: bytes) -> None:
        # Neither a thread, which could not be stopped while the reader sleeps, nor O_NONBLOCK, which all who share the pipe
        # would have to cope with.
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        rest = memoryview(data)
        while rest:
            ready.clear()
            loop.add_writer(self._fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_writer(self._fd)
            try:
                rest = rest[os.write(self._fd, rest[:_PIPE_BYTES]) :]
            except OSError as exc:
                raise self._error(exc) from exc

    async def _try(self, call: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(call)
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
            raise self._error(exc) from exc

    def _error(self, exc: OSError | ValueError) -> SinkError:
        if isinstance(exc, BrokenPipeError):
            return SinkError(f"{self.name}: its reader has gone", hint="nothing more can be written")
        code = exc.errno if isinstance(exc, OSError) else None
        why = os.strerror(code).lower() if code else "not a name that a file can have"
        return SinkError(f"{self.name}: {why}", hint=_HINTS.get(code or 0, "choose another place"))


def _open(path: Path, *, new: bool) -> tuple[int, bool]:
    """Open a file to be written. Return its descriptor and whether it was created. `new`: it must not exist yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o666), True
    except FileExistsError:
        if new:
            raise
        return os.open(path, flags, 0o666), False
