"""An event loop on a clock that jumps: minutes of waiting take no time, and real sockets work as ever."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ["VirtualLoop", "run"]

_T = TypeVar("_T")

# What one socket has sent is at the other at once, but for a busy kernel: it is given so much real time before each jump.
GRACE_S = 20e-6


class _VirtualSelector(selectors.SelectSelector):
    """Looks for what is ready, and instead of waiting moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            return super().select(1.0)  # only a socket can go on: the kernel's time
        if not ready and timeout:
            ready = super().select(GRACE_S)
        if not ready and timeout:
            self.now += timeout + 1e-9  # never a little less than the timer's time: it would not move on
        return ready


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
