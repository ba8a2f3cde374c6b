"""The only place that opens connections to speech endpoints, and the only one that decides which of them a turn gets.

Connections are shared by all who speak to the same endpoint with the same voice and format. A turn leases a place, preferably
on the connection that its conversation had before. Turns that find none free wait in a queue for each account, and as many
connections are opened at once as they need and may have; whatever becomes free first, new or old, goes to the first of them.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self

from ..errors import ConfigError, ConnectFailed, LocalProtocolError
from ..speech.messages import Event, Failed, Scope
from ..speech.slot import Listener
from .account import Account
from .connection import Connection, ConnectionSlot
from .endpoint import Endpoint
from .health import Connections, Opening
from .quota import Lease, LocalQuota, Quota

__all__ = ["Endpoint", "Pool", "backoff"]

CONNECT_S = 5.0  # for all tries together to open a connection
WAIT_S = 10.0  # for a place, when all connections that are allowed are taken
CLOSING_S = 3.0  # for an idle connection to be closed, where a turn would not wait for a place otherwise
UNUSED_S = 120.0  # after its last turn was begun, a connection that is idle is closed, if it is not the newest
FORGET_S = 600.0  # an endpoint that nobody used for so long is forgotten: each voice and speed of a client's choice is one
FORGET_EACH_S = 60.0  # how often that is looked for
CONNECTIONS, TURNS = "connections to ", "turns at "  # What a quota calls them, with the name of an endpoint.
NO_SPARE_S = 30.0  # without trying to open one more, when that was refused and others are open
LIFE_SHARES = (0.90, 0.97)  # of a connection's life, at random, after which it gets no new turn

_log = logging.getLogger("llm2ws.pool")


def backoff() -> Iterator[float]:
    """Yield how long to wait before each next try, in seconds."""
    delay_s = 0.25
    while True:
        yield delay_s
        delay_s = min(2 * delay_s, 8.0)


def _has_some_left(connection: Connection, now: float) -> bool:
    """Whether its limits let a turn begin now. The turns of many conversations share them."""
    session = connection.session
    return session.flush_at(now) <= now and session.speak_at(1, now) <= now


@dataclass(slots=True, eq=False)
class _Request:
    """A turn that waits for a place. Times are those of the event loop."""

    connections: Connections
    last: object  # the place to prefer
    avoid: object  # the place that the turn has and would leave
    client: Hashable
    patient: bool  # else it takes what can be had without waiting for a place, after one try to open a connection
    until: float
    slot: asyncio.Future[ConnectionSlot]
    round: int = 0
    tried: bool = False  # a connection was opened for it, or tried to be

    def fail(self, error: Exception) -> None:
        if not self.slot.done():
            self.slot.set_exception(copy.copy(error))  # The error of one turn would keep the traceback of another alive.


class Pool:
    """Connections that are spoken over, opened when they are needed and closed when the pool is left.

    `quota`: counts connections and turns against the endpoints' limits; None for this pool's own. `replicas`: how many
    processes with quotas of their own share these limits. Each uses an equal part, and at least one; what is left over is for
    those that replace others, and are there before these have gone. Other limits are each connection's own.
    """

    def __init__(
        self,
        *,
        quota: Quota | None = None,
        replicas: int = 1,
        connect_s: float = CONNECT_S,
        wait_s: float = WAIT_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.opened = 0  # connections, ever
        self._quota = quota or LocalQuota()
        self._replicas = replicas
        self._connect_s = connect_s
        self._wait_s = wait_s
        self._jitter = jitter
        self._accounts: dict[str, Account[_Request]] = {}
        self._endpoints: dict[Endpoint, Connections] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}  # by account: when to look again
        self._tasks = asyncio.TaskGroup()
        self._entered = False
        self._unsubscribe: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._entered = True
        self._unsubscribe = self._quota.subscribe(self._wanted)
        self._sweeper = self._tasks.create_task(self._sweep())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False
        self._unsubscribe()
        self._sweeper.cancel()
        for timer in self._timers.values():
            timer.cancel()
        for account in self._accounts.values():
            for request in account.waiting:
                request.fail(_not_open())
        for opening in [opening for connections in self._endpoints.values() for opening in connections.openings]:
            opening.cancel()
        try:
            await asyncio.gather(*(c.aclose() for connections in self._endpoints.values() for c in connections.open))
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
        client: Hashable = None,
    ) -> tuple[ConnectionSlot, Endpoint]:
        """Return a place for one turn at the first of `endpoints` that can be had, and which one that is.

        `last`: the `place` of the slot to prefer. `avoid`: that of the slot which the turn has and would leave, so that none is
        waited for. `client`: whom the turn is for, so that clients take turns at what is scarce; None for nobody's.
        Raises ConnectFailed when there is none, ConfigError for what cannot be asked for.
        """
        now = asyncio.get_running_loop().time
        allowed = [endpoint for endpoint in endpoints if self._of(endpoint).breaker.allows(now())]
        # When all of them rest, the one that has rested longest is tried: an answer late is better than none.
        order = allowed or [min(endpoints, key=lambda endpoint: self._of(endpoint).breaker.rests_until)]
        for endpoint in order:
            # Another one is there, so this one is not waited for.
            patient = endpoint is order[-1] and avoid is None
            request = self._request(endpoint, last=last, avoid=avoid, client=client, patient=patient)
            try:
                return await self._lease(endpoint, request, listener), endpoint
            except ConnectFailed:
                if endpoint is order[-1]:
                    raise
        raise AssertionError("the last endpoint is returned or raises")

    async def warm(self, endpoint: Endpoint) -> None:
        """Open a connection before it is needed, if none has a place for a turn. Raises like `lease`."""
        if not any(connection.places or connection.clearing for connection in self._of(endpoint).open):
            (await self._place(self._request(endpoint))).cancel()

    def connections(self, name: str) -> int:
        """Return how many connections are open under an endpoint's name, those that are being opened too."""
        return sum(len(each.open) + sum(opening.began_at > 0 for opening in each.openings) for each in self._under(name))

    def ping_s(self, name: str) -> float:
        """Return how long the endpoint of that name takes to answer a ping: the least of its connections; NaN before the first.

        In seconds.
        """
        pings = [connection.ping_s for connections in self._under(name) for connection in connections.open]
        return min((ping_s for ping_s in pings if not math.isnan(ping_s)), default=math.nan)

    # Leasing

    def _request(
        self,
        endpoint: Endpoint,
        *,
        last: object = None,
        avoid: object = None,
        client: Hashable = None,
        patient: bool = True,
    ) -> _Request:
        loop = asyncio.get_running_loop()
        until = loop.time() + (self._wait_s if patient else 0.0)
        return _Request(self._of(endpoint), last, avoid, client, patient, until, loop.create_future())

    async def _lease(self, endpoint: Endpoint, request: _Request, listener: Listener) -> ConnectionSlot:
        """Return a place at this endpoint, when one of its turns is to be had."""
        turn = None
        share = self._share(endpoint.turns)
        if share is not None and request.avoid is None:  # A turn that leaves one connection for another is not one more.
            try:
                turn = await self._quota.acquire(TURNS + endpoint.name, share, until=request.until)
            except TimeoutError:
                raise _taken(endpoint, "turns", share) from None
        try:
            slot = await self._place(request)
        except BaseException:
            if turn is not None:
                turn.release()
            raise
        slot.listener = listener
        slot.on_over = partial(self._over, turn, request.connections, slot.connection)
        return slot

    def _over(self, turn: Lease | None, connections: Connections, connection: Connection, event: Event) -> None:
        """Take note that a turn has left its place."""
        if turn is not None:
            turn.release()
        match event:
            case Failed(scope=Scope.CONTEXT):
                connections.breaker.failed(asyncio.get_running_loop().time())
            case Failed():
                pass  # the connection is judged
            case _ if connection.audio_came:
                connections.breaker.succeeded()

    async def _place(self, request: _Request) -> ConnectionSlot:
        """Return a place when it is this turn's turn."""
        if not self._entered:
            raise _not_open()
        loop = asyncio.get_running_loop()
        connections = request.connections
        account = self._account(connections.endpoint.name)
        connections.users += 1
        try:
            while True:
                account.add(request)
                self._serve(account)
                slot = await request.slot
                if slot.live:
                    return slot
                request.slot = loop.create_future()  # The connection was lost before this task came to run.
        except BaseException:
            account.remove(request)
            if request.slot.done() and not request.slot.cancelled() and request.slot.exception() is None:
                request.slot.result().cancel()
            await self._drop_surplus(connections)
            raise
        finally:
            connections.users -= 1
            connections.used_at = loop.time()

    # Serving the queue

    def _serve(self, account: Account[_Request]) -> None:
        """Give free places to the turns that wait, in order, and have connections opened for the others."""
        if not self._entered:
            return
        now = asyncio.get_running_loop().time()
        limit = account.learned.at(now)
        closing = sum(connection.closing for connection in self._open_in(account.name))
        coming = {connections.endpoint: connections.coming for connections in self._under(account.name)}
        for request in list(account.waiting):
            connections = request.connections
            if self._give(request, now):
                account.remove(request)
                continue
            coming[connections.endpoint] -= 1
            if coming[connections.endpoint] >= 0 or (connections.queued and now < request.until):
                continue  # It gets one of the places that are coming.
            held = self._held(account)
            if held < limit and (now < request.until or not request.tried):
                if self._within_share(connections, held + (connections.queued > 0) - 1):
                    self._begin_opening(request, now)
                    coming[connections.endpoint] += connections.turns_at_once
            elif closing > 0:
                closing -= 1  # It gets the next connection after the one that is being closed.
            elif held >= limit and self._close_an_idle_one(account):
                pass
            elif now >= request.until:
                request.fail(_taken(connections.endpoint, "connections", self._share(connections.endpoint.connections)))
                account.remove(request)
        self._look_again(account, now)

    def _give(self, request: _Request, now: float) -> bool:
        """Give a turn a place, if one is free for it. Return whether it is off the queue."""
        if request.slot.done():
            return True
        connections = request.connections
        free = [connection for connection in connections.open if connection.places and connection is not request.avoid]
        able = [connection for connection in free if _has_some_left(connection, now)]
        if not free or (not able and self._spare_is_coming(connections, now)):
            return False
        able = able or free
        connection = next((connection for connection in able if connection is request.last), able[-1])
        connections.leased_at[connection] = now
        request.slot.set_result(connection.lease(_ignore))
        return True

    def _spare_is_coming(self, connections: Connections, now: float) -> bool:
        """Return whether to wait for one connection more, as those that are free have little left of their limits."""
        account = self._account(connections.endpoint.name)
        held = self._held(account)
        allowed = held < account.learned.at(now) and self._within_share(connections, held)
        return now >= connections.no_spare_until and (allowed or any(opening.spare for opening in connections.openings))

    def _within_share(self, connections: Connections, held: int) -> bool:
        """Return whether an account that has so many connections may have one more, as far as is known here."""
        share = self._share(connections.endpoint.connections)
        return share is None or held < share

    def _look_again(self, account: Account[_Request], now: float) -> None:
        """Serve again when the patience of a turn ends, or when one connection more may be asked for."""
        if (timer := self._timers.pop(account.name, None)) is not None:
            timer.cancel()
        times = [request.until for request in account.waiting if request.until > now]
        if times:
            at = min(*times, account.learned.rises_at(now))
            self._timers[account.name] = asyncio.get_running_loop().call_at(at, self._serve, account)

    # Opening

    def _begin_opening(self, request: _Request, now: float) -> None:
        request.tried = True
        connections = request.connections
        spare = any(connection.places and connection is not request.avoid for connection in connections.open)
        until = request.until
        if not request.patient and any(connection.idle for connection in self._open_in(connections.endpoint.name)):
            until = now + CLOSING_S
        opening = Opening(patient=request.patient and not spare, spare=spare, until=until)
        connections.openings.append(opening)
        opening.task = self._tasks.create_task(self._open(connections, opening))

    async def _open(self, connections: Connections, opening: Opening) -> None:
        """Open a connection, within the quota, and keep it until it is over."""
        account, loop = self._account(connections.endpoint.name), asyncio.get_running_loop()
        lease, connection = None, None
        try:
            lease = await self._admit(account, connections, opening)
            connection = await self._handshake(connections, opening)
        except _NotNeeded:
            pass
        except TimeoutError:  # of the quota
            if opening.spare:
                connections.no_spare_until = loop.time() + NO_SPARE_S
        except (ConnectFailed, ConfigError) as exc:
            self._failed(account, connections, opening, exc)
        except BaseException:
            connections.breaker.gave_up()
            raise
        finally:
            connections.openings.remove(opening)
            if connection is None:
                if lease is not None:
                    lease.release()
                self._serve(account)
        if connection is not None:
            self.opened += 1
            connections.breaker.opened()
            connections.open.append(connection)
            connections.leased_at[connection] = loop.time()
            account.learned.granted(len(self._open_in(account.name)), loop.time())
            self._serve(account)
            await self._run(connections, connection, lease)

    async def _admit(self, account: Account[_Request], connections: Connections, opening: Opening) -> Lease | None:
        """Take a connection from the quota; None where there is no limit.

        Raises TimeoutError when there is none in time, _NotNeeded when the turns have found places meanwhile.
        """
        endpoint, share = connections.endpoint, self._share(connections.endpoint.connections)
        if share is None:
            return None
        kind, now = CONNECTIONS + endpoint.name, asyncio.get_running_loop().time()
        try:
            return await self._quota.acquire(kind, share, until=now)
        except TimeoutError:
            if opening.spare or opening.until <= now:
                raise
        opening.queued = True
        lease = await self._quota.acquire(kind, share, until=opening.until)
        self._serve(account)  # Something may have become free meanwhile.
        needed = sum(request.connections is connections for request in account.waiting) > connections.coming
        opening.queued = False
        if not needed:
            lease.release()
            raise _NotNeeded
        return lease

    async def _handshake(self, connections: Connections, opening: Opening) -> Connection:
        """Open a connection; a patient one is tried until `connect_s` has passed."""
        endpoint, loop = connections.endpoint, asyncio.get_running_loop()
        opening.began_at = loop.time()
        connections.breaker.trying(opening.began_at)
        connections.check_deaths()
        give_up_at = loop.time() + (self._connect_s if opening.patient else 0.0)
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
                    on_change=partial(self._freed, connections),
                )
            except ConnectFailed as exc:
                wait_s = math.inf if exc.retry_s is None else max(delay_s, exc.retry_s)
                if loop.time() + wait_s >= give_up_at or self._is_full(endpoint.name, opening, exc):
                    raise
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff never ends")

    def _is_full(self, name: str, opening: Opening, exc: ConnectFailed | ConfigError) -> bool:
        """Return whether a handshake was refused because of the account's other connections (HTTP 429)."""
        others = (other for connections in self._under(name) for other in connections.openings if other is not opening)
        refused = isinstance(exc, ConnectFailed) and exc.status == HTTPStatus.TOO_MANY_REQUESTS
        return refused and (bool(self._open_in(name)) or any(not other.queued for other in others))

    def _failed(
        self, account: Account[_Request], connections: Connections, opening: Opening, exc: ConnectFailed | ConfigError
    ) -> None:
        """Draw the conclusions from a handshake that failed, and fail the turns for which that is an answer."""
        now = asyncio.get_running_loop().time()
        if opening.spare:
            connections.no_spare_until = now + NO_SPARE_S
        concerned = [request for request in account.waiting if request.connections is connections]
        if self._is_full(account.name, opening, exc):
            account.learned.refused(max(1, len(self._open_in(account.name))), now)
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
            account.remove(request)

    async def _drop_surplus(self, connections: Connections) -> None:
        """Stop opening connections for turns that were cancelled."""
        account = self._account(connections.endpoint.name)
        waiting = sum(request.connections is connections for request in account.waiting)
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
            self._serve(self._account(endpoint.name))

    def _freed(self, connections: Connections) -> None:
        """Give a place that has become free to whoever waits, or close its connection."""
        self._close_unused(connections)  # the one that a turn has left for a younger one
        self._serve(self._account(connections.endpoint.name))

    def _close_unused(self, connections: Connections) -> None:
        """Close connections that take no new turn, when they have none left; and those that nobody has needed lately.

        The newest stays, for whoever comes next.
        """
        needed_after = asyncio.get_running_loop().time() - UNUSED_S
        for connection in connections.open:
            unused = connection is not connections.open[-1] and connections.leased_at[connection] < needed_after
            if connection.idle and (connection.spent or unused):
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        if self._entered:
            connection.retire()  # At once: before the task has begun, a turn could be given a place on it.
            self._tasks.create_task(connection.aclose())

    def _close_an_idle_one(self, account: Account[_Request]) -> bool:
        """Make room by closing the connection of an account that is idle for longest. Return whether there was one."""
        idle = [(at, c) for each in self._under(account.name) for c, at in each.leased_at.items() if c.idle]
        if idle:
            self._close(min(idle, key=lambda entry: entry[0])[1])
        return bool(idle)

    def _wanted(self, kind: str) -> None:
        """Somebody waits for a connection, here or in another pool."""
        account = self._accounts.get(kind.removeprefix(CONNECTIONS))
        if account is not None and kind.startswith(CONNECTIONS):
            self._close_an_idle_one(account)

    async def _sweep(self) -> None:
        """Close what nobody has used for long, while nobody comes."""
        while True:
            await asyncio.sleep(min(UNUSED_S, FORGET_EACH_S))
            used_after = asyncio.get_running_loop().time() - FORGET_S
            for endpoint, connections in list(self._endpoints.items()):
                self._close_unused(connections)
                if connections.users or connections.openings or connections.used_at >= used_after:
                    continue
                for connection in connections.open:
                    if connection.idle:
                        self._close(connection)
                if not connections.open:
                    del self._endpoints[endpoint]

    # Finding

    def _share(self, limit: int | None) -> int | None:
        """Return how much of an endpoint's limit this process may use; None for any number."""
        return None if limit is None else max(1, limit // self._replicas)

    def _of(self, endpoint: Endpoint) -> Connections:
        return self._endpoints.setdefault(endpoint, Connections(endpoint, asyncio.get_running_loop().time()))

    def _account(self, name: str) -> Account[_Request]:
        return self._accounts.setdefault(name, Account(name))

    def _under(self, name: str) -> list[Connections]:
        return [connections for connections in self._endpoints.values() if connections.endpoint.name == name]

    def _open_in(self, name: str) -> list[Connection]:
        return [connection for connections in self._under(name) for connection in connections.open]

    def _held(self, account: Account[_Request]) -> int:
        """Return how many connections an account has, those that are being opened too."""
        return sum(len(each.open) + len(each.openings) - each.queued for each in self._under(account.name))


class _NotNeeded(Exception):
    """A connection that was waited for is not needed any more."""


def _not_open() -> LocalProtocolError:
    return LocalProtocolError("the pool is not open", hint="use it with `async with`")


def _taken(endpoint: Endpoint, what: str, share: int | None) -> ConnectFailed:
    """Return the error for a turn that finds all of `share` in use. `what`: in the plural."""
    of = "" if share is None else f" ({share})"
    taken = f"all {what} to {endpoint.name or endpoint.dialect.name} are in use{of}"
    return ConnectFailed(taken, hint="try again later, or raise the limit", status=HTTPStatus.TOO_MANY_REQUESTS, retry_s=1.0)


def _ignore(event: Event) -> None:
    """Take no note: nothing but its end can happen to a turn before it has begun."""
