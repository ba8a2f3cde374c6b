"""The only place that opens connections to speech endpoints, and the only one that decides which of them a turn gets.

Connections are shared by all who speak to the same endpoint with the same voice and format. A turn leases a place, preferably
on the connection that its conversation had before; while that one still confirms an interruption it is waited for, because
that takes less than a handshake.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from ..errors import ConfigError, ConnectFailed, LocalProtocolError
from ..speech.messages import Event, Failed, Scope
from ..speech.slot import Listener
from .breaker import Breaker
from .connection import Connection, ConnectionSlot
from .endpoint import Endpoint
from .health import Shelf

__all__ = ["Endpoint", "Pool", "Quota", "backoff"]

CONNECT_S = 5.0  # for all tries together to open a connection
WAIT_S = 10.0  # for a place, when all connections that are allowed are taken
UNUSED_S = 120.0  # after its last turn was begun, a connection that is idle is closed, if it is not the newest
FORGET_S = 600.0  # an endpoint that nobody used for so long is forgotten: each voice and speed of a client's choice is one
FORGET_EACH_S = 60.0  # how often that is looked for
NO_MORE_S = 30.0  # without trying to open one more, when that was refused and others are open
LIFE_SHARES = (0.90, 0.97)  # of a connection's life, at random, after which it gets no new turn

_log = logging.getLogger("llm2ws.pool")


def backoff() -> Iterator[float]:
    """How long to wait before each next try, in seconds."""
    delay_s = 0.25
    while True:
        yield delay_s
        delay_s = min(2 * delay_s, 8.0)


def _has_some_left(connection: Connection, now: float) -> bool:
    """Whether its limits let a turn begin now. The turns of many conversations share them."""
    session = connection.session
    return session.flush_at(now) <= now and session.speak_at(1, now) <= now


class Quota:
    """How much of something may be in use at once. Local to this process; a shared store can take its place."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def acquire(self, kind: str, limit: int | None) -> bool:
        """Take one of `kind`; False when all of them are in use."""
        if limit is not None and self._used[kind] >= limit:
            return False
        self._used[kind] += 1
        return True

    def release(self, kind: str) -> None:
        """Give one back."""
        self._used[kind] -= 1

    def used(self, kind: str) -> int:
        """How many are in use."""
        return self._used[kind]


class Pool:
    """Connections that are spoken over, opened when they are needed and closed when the pool is left.

    `replicas`: how many processes share the endpoints' limits on connections. Each uses an equal part, and at least one; what
    is left over is for those that replace others, and are there before these have gone. Other limits are each connection's own.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        connect_s: float = CONNECT_S,
        wait_s: float = WAIT_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.opened = 0  # connections, ever
        self._connect_s = connect_s
        self._wait_s = wait_s
        self._replicas = replicas
        self._jitter = jitter
        self._shelves: dict[Endpoint, Shelf] = {}
        self._forget_at = 0.0
        self._quota = Quota()
        self._changed = asyncio.Event()  # a place or a connection became free somewhere
        self._tasks = asyncio.TaskGroup()
        self._entered = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._entered = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False
        try:
            await asyncio.gather(*(c.aclose() for shelf in self._shelves.values() for c in shelf.connections))
        except BaseException as failed:
            await self._tasks.__aexit__(type(failed), failed, failed.__traceback__)
            raise
        # Not told of the body's exception: the group would wrap it.
        await self._tasks.__aexit__(None, None, None)

    async def lease(
        self,
        endpoints: Sequence[Endpoint],
        listener: Listener,
        *,
        last: object = None,
        avoid: object = None,
    ) -> tuple[ConnectionSlot, Endpoint]:
        """A place for one turn at the first of `endpoints` that can be had, and which one that is.

        `last`: the `place` of the slot to prefer. `avoid`: that of the slot which the turn has and would leave, so that none is
        waited for.
        Raises ConnectFailed when there is none, ConfigError for what cannot be asked for.
        """
        now = asyncio.get_running_loop().time
        allowed = [endpoint for endpoint in endpoints if self._breaker(endpoint).allows(now())]
        # When all of them rest, the one that has rested longest is tried: an answer late is better than none.
        order = allowed or [min(endpoints, key=lambda endpoint: self._breaker(endpoint).rests_until)]
        for endpoint in order[:-1]:
            try:
                # Another one is there, so this one is not waited for.
                return await self._lease(endpoint, listener, last, avoid, retry=False), endpoint
            except ConnectFailed:
                continue
        return await self._lease(order[-1], listener, last, avoid, retry=avoid is None), order[-1]

    async def warm(self, endpoint: Endpoint) -> None:
        """Open a connection before it is needed. Raises like `lease`."""
        with self._shelf(endpoint) as shelf:
            async with shelf.opening(retry=True):
                if not any(connection.ended is None for connection in shelf.connections):
                    await self._open(endpoint, shelf, retry=True)

    def connections(self, name: str) -> int:
        """How many connections are open under an endpoint's name."""
        return self._quota.used(name)

    def ping_s(self, name: str) -> float:
        """How long the endpoint of that name takes to answer a ping: the least of its connections; NaN before the first."""
        pings = [
            connection.ping_s
            for endpoint, shelf in self._shelves.items()
            if endpoint.name == name
            for connection in shelf.connections
            if connection.ended is None and not math.isnan(connection.ping_s)
        ]
        return min(pings, default=math.nan)

    async def _lease(
        self, endpoint: Endpoint, listener: Listener, last: object, avoid: object, *, retry: bool
    ) -> ConnectionSlot:
        """A place at this endpoint, when one of its turns is to be had."""
        give_up_at = asyncio.get_running_loop().time() + (self._wait_s if retry else 0.0)
        kind = f"turns at {endpoint.name}"
        # A turn that leaves one connection for another is not one more.
        share = None if avoid else self._share(endpoint.turns)
        while not self._quota.acquire(kind, share):
            await self._wait(give_up_at, endpoint, "turns", share)
        try:
            with self._shelf(endpoint) as shelf:
                slot = await self._place(endpoint, shelf, listener, last, avoid, give_up_at, retry=retry)
        except BaseException:
            self._quota.release(kind)
            self._changed.set()
            raise
        slot.on_over = partial(self._over, kind, endpoint, slot.connection)
        return slot

    def _over(self, kind: str, endpoint: Endpoint, connection: Connection, event: Event) -> None:
        """A turn has left its place."""
        self._quota.release(kind)
        self._changed.set()
        match event:
            case Failed(scope=Scope.CONTEXT):
                self._breaker(endpoint).failed(asyncio.get_running_loop().time())
            case Failed():
                pass  # the connection is judged
            case _ if connection.audio_came:
                self._breaker(endpoint).succeeded()

    async def _place(
        self,
        endpoint: Endpoint,
        shelf: Shelf,
        listener: Listener,
        last: object,
        avoid: object,
        give_up_at: float,
        *,
        retry: bool,
    ) -> ConnectionSlot:
        loop = asyncio.get_running_loop()
        while True:
            self._close_spent(shelf)
            free = [connection for connection in shelf.connections if connection.places and connection is not avoid]
            if free:
                able = [connection for connection in free if _has_some_left(connection, loop.time())]
                if not able and (fresh := await self._open_besides(endpoint, shelf)) is not None:
                    return fresh.lease(listener)
                able = [connection for connection in able or free if connection.places]
                if not able:
                    continue  # taken while another one was tried
                connection = next((one for one in able if one is last), able[-1])
                shelf.leased_at[connection] = loop.time()
                return connection.lease(listener)
            clearing = any(connection.clearing for connection in shelf.connections)
            if not clearing:
                async with shelf.opening(retry=retry):
                    if any(connection.places for connection in shelf.connections if connection is not avoid):
                        continue  # opened by another turn, which then had no use for it
                    if (opened := await self._open(endpoint, shelf, retry=retry)) is not None:
                        return opened.lease(listener)
            # A connection that is clearing is free, or gone, in a moment.
            until = loop.time() + self._wait_s if clearing else give_up_at
            await self._wait(until, endpoint, "connections", self._share(endpoint.connections))

    async def _open_besides(self, endpoint: Endpoint, shelf: Shelf) -> Connection | None:
        """One more, because those that are free have used up their limits; None where no more are allowed."""
        now = asyncio.get_running_loop().time()
        share = self._share(endpoint.connections)
        if now < shelf.no_more_until or (share is not None and self._quota.used(endpoint.name) >= share):
            return None
        try:
            async with shelf.opening(retry=False):
                return await self._open(endpoint, shelf, retry=False)
        except ConnectFailed:
            shelf.no_more_until = now + NO_MORE_S
            return None

    async def _wait(self, until: float, endpoint: Endpoint, what: str, share: int | None) -> None:
        """Until one of `share` becomes free. `what`: in the plural. Raises ConnectFailed when nothing does in time."""
        self._changed.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            taken = f"all {what} to {endpoint.name or endpoint.dialect.name} are in use ({share})"
            raise ConnectFailed(taken, hint="try again later, or raise the limit", status=429, retry_s=1.0) from None

    async def _open(self, endpoint: Endpoint, shelf: Shelf, *, retry: bool) -> Connection | None:
        """A new connection; None when no more are allowed now."""
        self._check_entered()
        if not self._quota.acquire(endpoint.name, self._share(endpoint.connections)):
            self._close_an_idle_one(endpoint)
            return None
        loop = asyncio.get_running_loop()
        breaker = self._breaker(endpoint)
        breaker.trying(loop.time())
        try:
            shelf.check_deaths()
            connection = await self._try_to_open(endpoint, shelf, retry=retry)
            try:
                self._check_entered()  # it may have been left meanwhile, and would wait for this one until it ends
            except LocalProtocolError:
                connection.abort()
                raise
        except BaseException as exc:
            self._quota.release(endpoint.name)
            self._changed.set()
            if isinstance(exc, ConnectFailed | ConfigError):
                breaker.failed(loop.time())
            else:
                breaker.gave_up()
            raise
        breaker.opened()
        self.opened += 1
        shelf.connections.append(connection)
        shelf.leased_at[connection] = loop.time()
        self._tasks.create_task(self._run(connection, endpoint, shelf))
        return connection

    def _check_entered(self) -> None:
        if not self._entered:
            raise LocalProtocolError("the pool is not open", hint="use it with `async with`")

    async def _try_to_open(self, endpoint: Endpoint, shelf: Shelf, *, retry: bool) -> Connection:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + (self._connect_s if retry else 0.0)
        low, high = LIFE_SHARES
        for delay_s in backoff():
            try:
                return await Connection.open(
                    endpoint.dialect,
                    tls=endpoint.tls,
                    limits=endpoint.limits,
                    silence_s=endpoint.silence_s,
                    open_s=self._connect_s,
                    life_share=low + (high - low) * self._jitter(),
                    on_change=partial(self._freed, shelf),
                )
            except ConnectFailed as exc:
                if exc.retry_s is None or loop.time() + max(delay_s, exc.retry_s) >= give_up_at:
                    raise
                await asyncio.sleep(max(delay_s, exc.retry_s))
        raise AssertionError("backoff never ends")

    async def _run(self, connection: Connection, endpoint: Endpoint, shelf: Shelf) -> None:
        """Keep a connection until it is over."""
        try:
            await connection.run()
        except* Exception as group:  # noqa: BLE001 - it must not end the other connections, which are in the same TaskGroup
            what = ", ".join(type(exc).__name__ for exc in group.exceptions)
            _log.error("a bug of llm2ws: a connection to %s was given up: %s", endpoint.name or endpoint.dialect.name, what)
            _log.debug("the bug", exc_info=group)  # may quote the endpoint
        finally:
            shelf.connections.remove(connection)
            shelf.leased_at.pop(connection, None)
            self._quota.release(endpoint.name)
            shelf.judge(connection, asyncio.get_running_loop().time())
            self._changed.set()

    def _freed(self, shelf: Shelf) -> None:
        """A place may have become free."""
        if self._entered:
            self._close_spent(shelf)  # the one that a turn has left for a younger one
        self._changed.set()

    def _close_spent(self, shelf: Shelf) -> None:
        """Connections that take no new turn are closed when they have none left; and those that nobody has needed lately.

        The newest stays, for whoever comes next.
        """
        needed_after = asyncio.get_running_loop().time() - UNUSED_S
        for connection in shelf.connections:
            unused = connection is not shelf.connections[-1] and shelf.leased_at[connection] < needed_after
            if connection.idle and (connection.spent or unused):
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.retire()  # at once: before the task has begun, a turn could be given a place on it
        self._tasks.create_task(connection.aclose())

    def _close_an_idle_one(self, endpoint: Endpoint) -> None:
        """Make room under the same name by closing what is idle: other voices first."""
        for other, shelf in self._shelves.items():
            if other.name == endpoint.name and other != endpoint:
                for connection in shelf.connections:
                    if connection.idle:
                        self._close(connection)
                        return

    def _share(self, limit: int | None) -> int | None:
        """How much of an endpoint's limit this process may use; None for any number."""
        return None if limit is None else max(1, limit // self._replicas)

    @contextmanager
    def _shelf(self, endpoint: Endpoint) -> Iterator[Shelf]:
        """That of an endpoint which is being used."""
        now = asyncio.get_running_loop().time
        shelf = self._known(endpoint)
        shelf.users += 1
        try:
            if now() >= self._forget_at:
                self._forget_at = now() + FORGET_EACH_S
                self._forget(now() - FORGET_S)
            yield shelf
        finally:
            shelf.users -= 1
            shelf.used_at = now()

    def _known(self, endpoint: Endpoint) -> Shelf:
        return self._shelves.setdefault(endpoint, Shelf(asyncio.get_running_loop().time()))

    def _forget(self, used_after: float) -> None:
        """Endpoints that nobody has used since: their connections are closed, then they are forgotten."""
        for endpoint, shelf in list(self._shelves.items()):
            if not shelf.users and shelf.used_at < used_after:
                for connection in shelf.connections:
                    if connection.idle:
                        self._close(connection)
                if not shelf.connections:
                    del self._shelves[endpoint]

    def _breaker(self, endpoint: Endpoint) -> Breaker:
        return self._known(endpoint).breaker
