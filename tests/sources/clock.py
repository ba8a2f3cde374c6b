"""An event loop whose time jumps, for what depends on time and waits for nothing real."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_jumping"]

T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Time passes only while the loop waits, and then at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


def run_jumping(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Return the result, and how long it took by the time of the loop."""
    selector = JumpingSelector()

    class JumpingLoop(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return selector.now

    with asyncio.Runner(loop_factory=lambda: JumpingLoop(selector)) as runner:
        return runner.run(work), selector.now
