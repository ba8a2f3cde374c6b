"""How much of something may be in use at once: the connections of an account, its turns.

A pool asks before it opens a connection or begins a turn. One Quota is made for a process and passed to everything that
counts against the same limits, so that a reload of settings does not begin to count anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

__all__ = ["Lease", "LocalQuota", "Quota"]


class Lease(Protocol):
    """The right to use one of a kind."""

    def release(self) -> None:
        """Give the right back, at once. Never fails; does nothing the second time."""


class Quota(Protocol):
    """Hands out leases. Implemented here for one process; a broker of many processes can take its place."""

    async def acquire(self, kind: str, limit: int | None, *, until: float) -> Lease:
        """Take one of `kind` when fewer than `limit` are in use; None for any number.

        Waits in order of arrival until `until`, in seconds of the event loop; a time that has passed asks without waiting.
        Raises TimeoutError when there was none in time. Who has waited should look again whether the lease is still needed.
        """

    def subscribe(self, wanted: Callable[[str], None]) -> Callable[[], None]:
        """Have `wanted` called with a kind whenever somebody begins to wait for it: who holds an idle one may give it back.

        Return the function that ends this.
        """


class LocalQuota:
    """The Quota of a single process, for one event loop."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[int | None, asyncio.Future[Lease]]]] = {}
        self._subscribers: list[Callable[[str], None]] = []

    async def acquire(self, kind: str, limit: int | None, *, until: float) -> Lease:
        """Take one of `kind`, as `Quota` describes."""
        if limit is None or (self._used[kind] < limit and not self._waiting.get(kind)):
            return self._grant(kind)
        loop = asyncio.get_running_loop()
        if until <= loop.time():
            raise TimeoutError
        future: asyncio.Future[Lease] = loop.create_future()
        entry = (limit, future)
        self._waiting.setdefault(kind, deque()).append(entry)
        try:
            for wanted in tuple(self._subscribers):
                wanted(kind)
            async with asyncio.timeout_at(until):
                return await future
        except BaseException:
            if future.done() and not future.cancelled():
                future.result().release()
            with contextlib.suppress(ValueError):
                self._waiting[kind].remove(entry)
            self._hand_on(kind)
            raise

    def subscribe(self, wanted: Callable[[str], None]) -> Callable[[], None]:
        """Have `wanted` called with a kind whenever somebody begins to wait for it."""
        self._subscribers.append(wanted)
        return lambda: self._subscribers.remove(wanted)

    def used(self, kind: str) -> int:
        """Return how many are in use."""
        return self._used[kind]

    def _grant(self, kind: str) -> Lease:
        self._used[kind] += 1
        return _LocalLease(self, kind)

    def give_back(self, kind: str) -> None:
        """Count one less in use, and let the next one in."""
        self._used[kind] -= 1
        self._hand_on(kind)

    def _hand_on(self, kind: str) -> None:
        waiting = self._waiting.get(kind, deque())
        while waiting and (waiting[0][0] is None or self._used[kind] < waiting[0][0]):
            _, future = waiting.popleft()
            if not future.done():
                future.set_result(self._grant(kind))


class _LocalLease:
    """A lease of a LocalQuota."""

    def __init__(self, quota: LocalQuota, kind: str) -> None:
        self._quota: LocalQuota | None = quota
        self._kind = kind

    def release(self) -> None:
        """Give it back."""
        if self._quota is not None:
            quota, self._quota = self._quota, None
            quota.give_back(self._kind)
