"""An event loop on a clock that jumps: minutes of waiting take no time, and real sockets work as ever."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import selectors
import struct
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ["VirtualLoop", "run"]

_T = TypeVar("_T")

# What one socket has sent is at the other at once, but for a busy kernel: it is given so much real time before each jump.
GRACE_S = 20e-6
# But where a socket's window was full, the kernel may send nothing until its timer has gone off, 0.2 s after the other has read
# all: a clock that jumps meanwhile takes a connection for dead on which a second of real time would have gone on.
STALL_S = 1.0
SIOCOUTQNSD = 0x894B  # Linux: how many bytes a TCP socket has not sent yet


class _VirtualSelector(selectors.SelectSelector):
    """Looks for what is ready, and instead of waiting moves the clock."""

    now = 0.0
    _given_up: dict[int, int] | None = None  # what was unsent when waiting for the kernel was in vain: nobody reads it

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            return super().select(1.0)  # only a socket can go on: the kernel's time
        if not ready and timeout:
            ready = super().select(GRACE_S)
        if not ready and timeout and (unsent := self._unsent()) and unsent != self._given_up:
            ready = super().select(STALL_S)
            self._given_up = None if ready else unsent
        if not ready and timeout:
            self.now += timeout + 1e-9  # never a little less than the timer's time: it would not move on
        return ready

    def _unsent(self) -> dict[int, int]:
        """How many bytes the kernel holds back, by the sockets that have any."""
        held = {}
        for key in self.get_map().values():
            with contextlib.suppress(OSError):  # not TCP, or not Linux
                if n := struct.unpack("i", fcntl.ioctl(key.fd, SIOCOUTQNSD, bytes(4)))[0]:
                    held[key.fd] = n
        return held


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while it works, and jumps when it would sleep."""

    def __init__(self) -> None:
        self._clock = _VirtualSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(what: Coroutine[object, object, _T]) -> _T:
    """As `asyncio.run`, on the virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(what)
