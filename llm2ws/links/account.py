"""The connections of one account: which turn gets a place on them, when one is opened, and when one is closed.

An account is what endpoints of one name share: their voices and formats have connections of their own, within one limit.
Turns that find no place free wait in one queue. As many connections are opened at once as the turns that wait need and may
have; whatever becomes free first, new or old, goes to the first of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from ..errors import ConfigError, ConnectFailed
from ..speech.messages import Event
from .connection import Connection, ConnectionSlot
from .endpoint import Endpoint
from .health import Connections, Opening
from .quota import Lease, Quota
from .request import LeaseRequest, not_open, taken
from .waiting import FairQueue, LearnedLimit

__all__ = ["Account", "Terms", "backoff"]

CLOSING_S = 3.0  # How long an idle connection may take to be closed, for a turn that does not wait for a place otherwise.
NO_SPARE_S = 30.0  # How long none is opened beside others that have places, after that was refused.
ANSWER_CHARS, ANSWER_FLUSHES = 200, 4  # What must be left of a connection's limits for a turn to begin on it.
LIFE_SHARES = (0.90, 0.97)  # The share of a connection's life, at random in between, after which it gets no new turn.

_log = logging.getLogger("llm2ws.pool")


def backoff() -> Iterator[float]:
    """Yield how long to wait before each next try, in seconds."""
    delay_s = 0.25
    while True:
        yield delay_s
        delay_s = min(2 * delay_s, 8.0)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a pool opens connections.

    `connect_s`: seconds for all tries together to open one. `jitter`: gives random numbers from 0 to 1. `freed`: called when a
    connection may have become idle.
    """

    quota: Quota
    replicas: int
    connect_s: float
    jitter: Callable[[], float]
    freed: Callable[[], None]

    def share(self, limit: int | None) -> int | None:
        """Return how much of an endpoint's limit this process may use; None for any number."""
        return None if limit is None else max(1, limit // self.replicas)


class _NotNeeded(Exception):
    """A connection that was waited for is not needed any more."""


class Account:
    """The connections of the endpoints of one name, and the turns that wait for them."""

    def __init__(self, name: str, terms: Terms, tasks: asyncio.TaskGroup) -> None:
        self.opened = 0  # connections, ever
        self.endpoints: dict[Endpoint, Connections] = {}
        self._kind = f"connections to {name}"
        self._terms = terms
        self._tasks = tasks
        self._queue: FairQueue[LeaseRequest] = FairQueue()
        self._learned = LearnedLimit()
        self._timer: asyncio.TimerHandle | None = None  # to look again
        self._closed = False

    @property
    def open(self) -> list[Connection]:
        """All connections that are not over."""
        return [connection for connections in self.endpoints.values() for connection in connections.open]

    @property
    def held(self) -> int:
        """How many connections the account has, those that are being opened too."""
        return sum(len(each.open) + len(each.openings) - each.queued for each in self.endpoints.values())

    def close(self) -> None:
        """Begin nothing from now on; those who wait get an error."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for request in self._queue:
            request.fail(not_open())
        for opening in [opening for connections in self.endpoints.values() for opening in connections.openings]:
            opening.cancel()

    async def place(self, request: LeaseRequest) -> ConnectionSlot:
        """Return a place when it is this turn's turn."""
        slot = await self.wait(request)
        assert slot is not None  # None is for what warms.
        return slot

    async def wait(self, request: LeaseRequest) -> ConnectionSlot | None:
        """Return a place when it is this turn's turn; None, for a request that warms, when a connection is open."""
        if self._closed:
            raise not_open()
        loop = asyncio.get_running_loop()
        connections = request.connections
        connections.users += 1
        try:
            while True:
                self._queue.add(request)
                self._serve()
                slot = await request.slot
                if slot is None or slot.live:
                    return slot
                request.slot = loop.create_future()  # The connection was lost before this task came to run.
        except BaseException:
            self._queue.remove(request)
            given = request.slot.done() and not request.slot.cancelled() and request.slot.exception() is None
            if given and (slot := request.slot.result()) is not None:
                slot.cancel()
            await self._drop_surplus(connections)
            raise
        finally:
            connections.users -= 1
            connections.used_at = loop.time()

    # Serving the queue

    def _serve(self) -> None:
        """Give free places to the turns that wait, in order, and have connections opened for the others."""
        if self._closed:
            return
        now = asyncio.get_running_loop().time()
        limit = self._learned.at(now)
        closing = sum(connection.closing for connection in self.open)
        coming = {connections.endpoint: connections.coming for connections in self.endpoints.values()}
        for request in sorted(self._queue, key=lambda request: request.warming):
            connections = request.connections
            if self._give(request, now):
                self._queue.remove(request)
                continue
            if request.warming and connections.openings:
                request.tried = True
                continue  # The turn whose text has come gets the connection that is being opened ahead of it.
            coming[connections.endpoint] -= 1
            if coming[connections.endpoint] >= 0 or (connections.queued and now < request.until):
                continue  # It gets one of the places that are coming.
            held = self.held
            if held < limit and (now < request.until or not request.tried):
                if self._within_share(connections, held + (connections.queued > 0) - 1):
                    self._begin_opening(request, now)
                    coming[connections.endpoint] += connections.turns_at_once
            elif closing > 0:
                closing -= 1  # It gets the next connection after the one that is being closed.
            elif held >= limit and self.close_an_idle_one():
                pass
            elif now >= request.until:
                request.fail(taken(connections.endpoint, "connections", self._terms.share(connections.endpoint.connections)))
                self._queue.remove(request)
        self._look_again(now)

    def _give(self, request: LeaseRequest, now: float) -> bool:
        """Give a turn a place, if one is free for it. Return whether it is off the queue."""
        if request.slot.done():
            return True
        connections = request.connections
        if request.warming:
            # One that was opened for it will do, though a turn has taken its place.
            opened = request.tried and connections.open and not connections.openings
            if opened or any(connection.places for connection in connections.open):
                request.slot.set_result(None)
            return request.slot.done()
        free = [connection for connection in connections.open if connection.places and connection is not request.avoid]
        able = [connection for connection in free if connection.session.can_carry(ANSWER_CHARS, ANSWER_FLUSHES, now)]
        if not free or (not able and self._spare_is_coming(connections, now)):
            return False
        able = able or free
        connection = next((connection for connection in able if connection is request.last), able[-1])
        connections.leased_at[connection] = now
        request.slot.set_result(connection.lease(_ignore))
        return True

    def _spare_is_coming(self, connections: Connections, now: float) -> bool:
        """Return whether to wait for one connection more, as those that are free have little left of their limits."""
        held = self.held
        allowed = held < self._learned.at(now) and self._within_share(connections, held)
        return now >= connections.no_spare_until and (allowed or any(opening.spare for opening in connections.openings))

    def _within_share(self, connections: Connections, held: int) -> bool:
        """Return whether an account that has so many connections may have one more, as far as is known here."""
        share = self._terms.share(connections.endpoint.connections)
        return share is None or held < share

    def _look_again(self, now: float) -> None:
        """Serve again when the patience of a turn ends, or when one connection more may be asked for."""
        if (timer := self._timer) is not None:
            timer.cancel()
        times = [request.until for request in self._queue if request.until > now]
        if times:
            at = min(*times, self._learned.rises_at(now))
            self._timer = asyncio.get_running_loop().call_at(at, self._serve)

    # Opening

    def _begin_opening(self, request: LeaseRequest, now: float) -> None:
        request.tried = True
        connections = request.connections
        spare = any(connection.places and connection is not request.avoid for connection in connections.open)
        until = request.until
        if not request.patient and any(connection.idle for connection in self.open):
            until = now + CLOSING_S
        opening = Opening(patient=request.patient and not spare, spare=spare, until=until)
        connections.openings.append(opening)
        opening.task = self._tasks.create_task(self._open(connections, opening))

    async def _open(self, connections: Connections, opening: Opening) -> None:
        """Open a connection, within the quota, and keep it until it is over."""
        loop = asyncio.get_running_loop()
        lease, connection = None, None
        try:
            lease = await self._admit(connections, opening)
            connection = await self._handshake(connections, opening)
        except _NotNeeded:
            pass
        except TimeoutError:  # of the quota
            if opening.spare:
                connections.no_spare_until = loop.time() + NO_SPARE_S
        except (ConnectFailed, ConfigError) as exc:
            self._failed(connections, opening, exc)
        except BaseException:
            connections.breaker.gave_up()
            raise
        finally:
            connections.openings.remove(opening)
            if connection is None:
                if lease is not None:
                    lease.release()
                self._serve()
        if connection is not None:
            self.opened += 1
            connections.breaker.opened()
            connections.open.append(connection)
            connections.leased_at[connection] = loop.time()
            self._learned.granted(len(self.open), loop.time())
            self._serve()
            await self._run(connections, connection, lease)

    async def _admit(self, connections: Connections, opening: Opening) -> Lease | None:
        """Take a connection from the quota; None where there is no limit.

        Raises TimeoutError when there is none in time, _NotNeeded when the turns have found places meanwhile.
        """
        share = self._terms.share(connections.endpoint.connections)
        if share is None:
            return None
        now = asyncio.get_running_loop().time()
        try:
            return await self._terms.quota.acquire(self._kind, share, until=now)
        except TimeoutError:
            if opening.spare or opening.until <= now:
                raise
        opening.queued = True
        lease = await self._terms.quota.acquire(self._kind, share, until=opening.until)
        self._serve()  # Something may have become free meanwhile.
        needed = sum(request.connections is connections for request in self._queue) > connections.coming
        opening.queued = False
        if not needed:
            lease.release()
            raise _NotNeeded
        return lease

    async def _handshake(self, connections: Connections, opening: Opening) -> Connection:
        """Open a connection; a patient one is tried until `connect_s` has passed."""
        endpoint, loop = connections.endpoint, asyncio.get_running_loop()
        opening.began_at = now = loop.time()
        connections.breaker.trying(now)
        connections.check_deaths()
        give_up_at = now + (self._terms.connect_s if opening.patient else 0.0)
        low, high = LIFE_SHARES
        for delay_s in backoff():
            try:
                return await Connection.open(
                    endpoint.dialect,
                    tls=endpoint.tls,
                    limits=endpoint.limits,
                    silence_s=endpoint.silence_s,
                    open_s=self._terms.connect_s,
                    life_share=low + (high - low) * self._terms.jitter(),
                    on_change=partial(self._freed, connections),
                )
            except ConnectFailed as exc:
                wait_s = math.inf if exc.retry_s is None else max(delay_s, exc.retry_s)
                if loop.time() + wait_s >= give_up_at or self._is_full(opening, exc):
                    raise
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff never ends")

    def _is_full(self, opening: Opening, exc: ConnectFailed | ConfigError) -> bool:
        """Return whether a handshake was refused because of the account's other connections (HTTP 429)."""
        others = (other for connections in self.endpoints.values() for other in connections.openings if other is not opening)
        refused = isinstance(exc, ConnectFailed) and exc.status == HTTPStatus.TOO_MANY_REQUESTS
        return refused and (bool(self.open) or any(not other.queued for other in others))

    def _failed(self, connections: Connections, opening: Opening, exc: ConnectFailed | ConfigError) -> None:
        """Draw the conclusions from a handshake that failed, and fail the turns for which that is an answer."""
        now = asyncio.get_running_loop().time()
        if opening.spare:
            connections.no_spare_until = now + NO_SPARE_S
        concerned = [request for request in self._queue if request.connections is connections]
        if self._is_full(opening, exc):
            self._learned.refused(max(1, len(self.open)), now)
            connections.breaker.gave_up()
            for request in concerned:
                request.tried = False
            return
        connections.failed(opening, now)
        if opening.spare:
            return
        # What was tried but once is no answer for who may try for longer.
        concerned = [request for request in concerned if opening.patient or not request.patient]
        others = connections.open or any(other is not opening and not other.queued for other in connections.openings)
        for request in concerned[-1:] if others and isinstance(exc, ConnectFailed) else concerned:
            request.fail(exc)
            self._queue.remove(request)

    async def _drop_surplus(self, connections: Connections) -> None:
        """Stop opening connections for turns that were cancelled."""
        waiting = sum(request.connections is connections for request in self._queue)
        needed = math.ceil(waiting / connections.turns_at_once)
        surplus = connections.openings[needed:]
        for opening in surplus:
            opening.cancel()
        if surplus:
            await asyncio.wait([opening.task for opening in surplus if opening.task is not None])

    # Keeping and closing

    async def _run(self, connections: Connections, connection: Connection, lease: Lease | None) -> None:
        """Keep a connection until it is over."""
        endpoint = connections.endpoint
        try:
            await connection.run()
        except* Exception as group:  # noqa: BLE001 - it must not end the other connections, which are in the same TaskGroup
            what = ", ".join(type(exc).__name__ for exc in group.exceptions)
            _log.error("a bug of llm2ws: a connection to %s was given up: %s", endpoint.name or endpoint.dialect.name, what)
            _log.debug("the bug", exc_info=group)  # may quote the endpoint
        finally:
            connections.open.remove(connection)
            connections.leased_at.pop(connection, None)
            if lease is not None:
                lease.release()
            connections.judge(connection, asyncio.get_running_loop().time())
            self._serve()

    def _freed(self, connections: Connections) -> None:
        """Give a place that has become free to whoever waits, or close its connection."""
        for connection in connections.open:
            if connection.idle and connection.spent:
                self._close(connection)
        self._serve()
        self._terms.freed()

    def close_unused(self, connections: Connections, needed_after: float) -> None:
        """Close connections to which no turn has come since `needed_after`. The newest stays, for whoever comes next."""
        for connection in connections.open[:-1]:
            if connection.idle and connections.leased_at[connection] < needed_after:
                self._close(connection)

    def close_idle(self, connections: Connections) -> None:
        """Close all connections of an endpoint that have no turn."""
        for connection in connections.open:
            if connection.idle:
                self._close(connection)

    def close_an_idle_one(self) -> bool:
        """Make room by closing the connection that is idle for longest. Return whether there was one."""
        idle = [(at, c) for each in self.endpoints.values() for c, at in each.leased_at.items() if c.idle]
        if idle:
            self._close(min(idle, key=lambda entry: entry[0])[1])
        return bool(idle)

    def _close(self, connection: Connection) -> None:
        if not self._closed:
            connection.retire()  # At once: before the task has begun, a turn could be given a place on it.
            self._tasks.create_task(connection.aclose())


def _ignore(event: Event) -> None:
    """Take no note: nothing but its end can happen to a turn before it has begun."""
