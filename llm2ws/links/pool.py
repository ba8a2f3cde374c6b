"""Who gets which connection to which speech endpoint: the only place from which connections are opened.

Connections are shared by all who speak to the same endpoint with the same voice and format. A turn leases a place, preferably
on the connection that its conversation had before; each account decides for itself (`account.py`).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from ..errors import ConnectFailed
from ..speech.messages import Event, Failed, Scope
from ..speech.slot import Listener
from .account import Account, Terms
from .connection import Connection, ConnectionSlot
from .endpoint import Endpoint
from .health import Connections
from .quota import Lease, LocalQuota, Quota
from .request import LeaseRequest, not_open, taken

__all__ = ["Endpoint", "Pool"]

CONNECT_S = 5.0  # For all tries together to open a connection.
WAIT_S = 10.0  # How long a turn waits for a place, when all connections that are allowed are taken.
UNUSED_S = 120.0  # How long after its last turn was begun an idle connection is closed, if it is not the newest.
FORGET_S = 600.0  # How long an endpoint is kept that nobody uses: each voice and speed of a client's choice is one.
FORGET_EACH_S = 60.0  # How often that is looked for.
IDLE_IN_ACCOUNT, IDLE_IN_ALL = 12, 32  # How many endpoints, all of whose connections are idle, keep them open.


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
        self._quota = quota or LocalQuota()
        self._terms = Terms(self._quota, replicas, connect_s, jitter, self._close_surplus)
        self._wait_s = wait_s
        self._accounts: dict[str, Account] = {}
        self._tasks = asyncio.TaskGroup()
        self._entered = False
        self._leaving: list[Callable[[], object]] = []  # what is to be done when the pool is left

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._entered = True
        self._leaving = [self._quota.subscribe(self._wanted), self._tasks.create_task(self._sweep()).cancel]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False
        for leave in (*self._leaving, *(account.close for account in self._accounts.values())):
            leave()
        try:
            await asyncio.gather(*(connection.aclose() for account in self._accounts.values() for connection in account.open))
        except BaseException as failed:
            await self._tasks.__aexit__(type(failed), failed, failed.__traceback__)
            raise
        # Not told of the body's exception: the group would wrap it.
        await self._tasks.__aexit__(None, None, None)

    @property
    def opened(self) -> int:
        """How many connections were ever opened."""
        return sum(account.opened for account in self._accounts.values())

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
            request = self._request(endpoint)
            request.warming = True
            await self._account(endpoint.name).wait(request)

    def connections(self, name: str) -> int:
        """Return how many connections are open under an endpoint's name, those that are being opened too."""
        endpoints = self._account(name).endpoints.values()
        return sum(len(each.open) + sum(opening.began_at is not None for opening in each.openings) for each in endpoints)

    def ping_s(self, name: str) -> float:
        """Return how long the endpoint of that name takes to answer a ping, in seconds: the least of its connections.

        NaN before the first answer.
        """
        pings = (connection.ping_s for connection in self._account(name).open)
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
    ) -> LeaseRequest:
        if not self._entered:
            raise not_open()
        loop = asyncio.get_running_loop()
        until = loop.time() + (self._wait_s if patient else 0.0)
        return LeaseRequest(self._of(endpoint), last, avoid, client, patient, until, loop.create_future())

    async def _lease(self, endpoint: Endpoint, request: LeaseRequest, listener: Listener) -> ConnectionSlot:
        """Return a place at this endpoint, when one of its turns is to be had."""
        turn = None
        share = self._terms.share(endpoint.turns)
        if share is not None and request.avoid is None:  # A turn that leaves one connection for another is not one more.
            try:
                turn = await self._quota.acquire(f"turns at {endpoint.name}", share, until=request.until)
            except TimeoutError:
                raise taken(endpoint, "turns", share) from None
        try:
            slot = await self._account(endpoint.name).place(request)
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

    # Keeping and closing

    def _wanted(self, kind: str) -> None:
        """Give an idle connection back, as somebody waits for one, here or in another pool."""
        for name, account in self._accounts.items():
            if kind == f"connections to {name}":
                account.close_an_idle_one()

    async def _sweep(self) -> None:
        """Close what nobody has used for long, while nobody comes."""
        while True:
            await asyncio.sleep(min(UNUSED_S, FORGET_EACH_S))
            now = asyncio.get_running_loop().time()
            for account in self._accounts.values():
                for endpoint, connections in list(account.endpoints.items()):
                    account.close_unused(connections, now - UNUSED_S)
                    if not connections.users and not connections.openings and connections.used_at < now - FORGET_S:
                        account.close_idle(connections)
                        if not connections.open:
                            del account.endpoints[endpoint]

    def _close_surplus(self) -> None:
        """Keep the idle connections of so many endpoints only, those that were used last."""
        accounts = list(self._accounts.values())
        for limit, group in [(IDLE_IN_ACCOUNT, [account]) for account in accounts] + [(IDLE_IN_ALL, accounts)]:
            idle = [(each.used_at, account, each) for account in group for each in account.endpoints.values() if each.idle]
            for _, account, connections in sorted(idle, key=lambda entry: entry[0])[: max(0, len(idle) - limit)]:
                account.close_idle(connections)

    # Finding

    def _of(self, endpoint: Endpoint) -> Connections:
        endpoints = self._account(endpoint.name).endpoints
        return endpoints.setdefault(endpoint, Connections(endpoint, asyncio.get_running_loop().time()))

    def _account(self, name: str) -> Account:
        return self._accounts.setdefault(name, Account(name, self._terms, self._tasks))
