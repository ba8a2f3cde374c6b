"""The only place that opens connections to speech endpoints.

For now it keeps one connection, opens it again when it is gone, and lets a turn wait while it is busy.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from .connection import Connection, Listener, Slot
from .errors import ConnectFailed, LocalProtocolError
from .speech.dialect import Dialect, Limits

__all__ = ["Pool", "backoff"]

CONNECT_S = 5.0  # for all tries together to open a connection
QUICK_DEATH_S = 5.0  # a connection that ends sooner and gave no audio was never any good
QUICK_DEATHS = 3


def backoff(first_s: float = 0.25, factor: float = 2.0, last_s: float = 8.0) -> Iterator[float]:
    """How long to wait before each next try, in seconds."""
    delay_s = first_s
    while True:
        yield delay_s
        delay_s = min(delay_s * factor, last_s)


class Pool:
    """Connections that are spoken over, opened when they are needed and closed when the pool is left."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        silence_s: float = 10.0,
        connect_s: float = CONNECT_S,
    ) -> None:
        self.dialect = dialect
        self.opened = 0  # connections, ever
        self._tls = tls
        self._limits = limits
        self._silence_s = silence_s
        self._connect_s = connect_s
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._quick_deaths = 0
        self._entered = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._entered = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False
        try:
            if self._connection is not None:
                await self._connection.aclose()
        except BaseException as failed:
            await self._tasks.__aexit__(type(failed), failed, failed.__traceback__)
            raise
        # Not told of the body's exception: the group would wrap it.
        await self._tasks.__aexit__(None, None, None)

    async def lease(self, listener: Listener) -> Slot:
        """A place for one turn, on the connection that is open or on a new one. Waits while the place is taken.

        Raises ConnectFailed when no connection can be had, ConfigError when it cannot be asked for.
        """
        while True:
            connection = await self._open()
            if connection.places:
                return connection.lease(listener)
            if connection.ended is None:
                await connection.changed()

    async def warm(self) -> None:
        """Open a connection before it is needed. Raises like `lease`."""
        await self._open()

    async def _open(self) -> Connection:
        if not self._entered:
            raise LocalProtocolError("the pool is not open", hint="use it with `async with`")
        async with self._opening:
            connection = self._connection
            if connection is not None and (connection.ended is None and not connection.session.retired):
                return connection
            if connection is not None:
                if connection.ended is None:
                    self._tasks.create_task(connection.aclose())
                self._count_death(connection)
            self._connection = connection = await self._try_to_open()
            self.opened += 1
            self._tasks.create_task(connection.run())
            return connection

    def _count_death(self, connection: Connection) -> None:
        """Backoff does not help against an endpoint that accepts and hangs up at once: that is counted."""
        ended = connection.ended
        age_s = connection.now() - connection.session.opened_at
        if ended is None or ended.ours or connection.audio_came or age_s > QUICK_DEATH_S:
            self._quick_deaths = 0
            return
        self._quick_deaths += 1
        if self._quick_deaths >= QUICK_DEATHS or ended.why.retry_s is None:
            what = f"the connection ended {self._quick_deaths} times without audio: {ended.why.what}"
            self._quick_deaths, self._connection = 0, None
            raise ConnectFailed(what, hint=ended.why.hint)

    async def _try_to_open(self) -> Connection:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._connect_s
        for delay_s in backoff():
            try:
                return await Connection.open(
                    self.dialect, tls=self._tls, limits=self._limits, silence_s=self._silence_s, open_s=self._connect_s
                )
            except ConnectFailed as exc:
                if exc.retry_s is None or loop.time() + max(delay_s, exc.retry_s) >= give_up_at:
                    raise
                await asyncio.sleep(max(delay_s, exc.retry_s))
        raise AssertionError("backoff never ends")
