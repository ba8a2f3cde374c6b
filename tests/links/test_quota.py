"""Leases of something of which there is a limited number: in one process, and handed out by a broker in another thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from llm2ws.links.pool import Pool
from llm2ws.links.quota import Lease, LocalQuota, Quota
from llm2ws.testing import FaultySpeech
from tests.links.leasing import CODING, ended, endpoint, ignore, speak
from tests.support import MS

PATIENCE_S = 20_000 * MS
SHORT_S = 20 * MS


@contextlib.contextmanager
def broker() -> Iterator[tuple[str, int]]:
    """A LocalQuota in a thread of its own, with a loop of its own, behind a socket. Gives its address.

    A connection of a client asks for one lease with "KIND LIMIT SECONDS", is told "yes" or "no", and holds the lease until it
    is closed. One that says "watch" is told the kinds that somebody waits for.
    """
    ready, loop = threading.Event(), asyncio.new_event_loop()
    quota, address, over = LocalQuota(), list[tuple[str, int]](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            match (await reader.readline()).decode().rstrip("\n").split("\t"):
                case [kind, limit, wait_s]:
                    gone = asyncio.create_task(reader.read())
                    until = loop.time() + float(wait_s)
                    asked = asyncio.create_task(quota.acquire(kind, int(limit) if limit else None, until=until))
                    await asyncio.wait([gone, asked], return_when=asyncio.FIRST_COMPLETED)
                    asked.cancel()
                    await asyncio.wait([asked])
                    if asked.cancelled():
                        return
                    writer.write(b"no\n" if asked.exception() else b"yes\n")
                    await gone
                    if not asked.exception():
                        asked.result().release()
                case _:
                    unsubscribe = quota.subscribe(lambda kind: writer.write(f"{kind}\n".encode()))
                    await reader.read()
                    unsubscribe()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            address.append(server.sockets[0].getsockname()[:2])
            ready.set()
            await over.wait()
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=PATIENCE_S) if others else None

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


class _SocketLease:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def release(self) -> None:
        self._writer.close()


class BrokerQuota:
    """A Quota that asks the broker."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._wanted: list[Callable[[str], None]] = []

    async def acquire(self, kind: str, limit: int | None, *, until: float) -> Lease:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            wait_s = max(0.0, until - asyncio.get_running_loop().time())
            writer.write(f"{kind}\t{'' if limit is None else limit}\t{wait_s}\n".encode())
            if await reader.readline() != b"yes\n":
                raise TimeoutError
        except BaseException:
            writer.close()
            raise
        return _SocketLease(writer)

    def subscribe(self, wanted: Callable[[str], None]) -> Callable[[], None]:
        self._wanted.append(wanted)
        return lambda: self._wanted.remove(wanted)

    async def watch(self) -> None:
        """Pass on what the broker says is wanted."""
        reader, writer = await asyncio.open_connection(*self._address)
        with contextlib.closing(writer):
            writer.write(b"watch\n")
            async for line in reader:
                for wanted in self._wanted:
                    wanted(line.decode().rstrip("\n"))


@asynccontextmanager
async def both(kind: str) -> AsyncIterator[Callable[[], Quota]]:
    """What makes quotas that count together: the same one again, or another client of the same broker."""
    if kind == "local":
        quota = LocalQuota()
        yield lambda: quota
        return
    watching = list[asyncio.Task[None]]()

    def make() -> Quota:
        client = BrokerQuota(address)
        watching.append(asyncio.create_task(client.watch()))
        return client

    with broker() as address:
        try:
            yield make
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


kinds = pytest.mark.parametrize("kind", ["local", "broker"])


def soon() -> float:
    return asyncio.get_running_loop().time() + PATIENCE_S


@kinds
async def test_no_more_than_the_limit_are_handed_out_and_each_kind_is_counted_for_itself(kind: str) -> None:
    async with both(kind) as make:
        one, other = make(), make()
        leases = [await quota.acquire("a", 2, until=0.0) for quota in (one, other)]
        for quota in (one, other):
            with pytest.raises(TimeoutError):
                await quota.acquire("a", 2, until=0.0)
        leases.append(await one.acquire("b", 1, until=0.0))
        leases += [await other.acquire("c", None, until=0.0) for _ in range(10)]
        leases[0].release()
        leases[0].release()  # again: nothing happens
        leases.append(await other.acquire("a", 2, until=soon()))
        with pytest.raises(TimeoutError):
            await one.acquire("a", 2, until=0.0)
        for lease in leases:
            lease.release()


@kinds
async def test_those_who_wait_are_served_in_order(kind: str) -> None:
    async with both(kind) as make:
        quota = make()
        held = await quota.acquire("a", 1, until=0.0)
        served = list[int]()
        waits = asyncio.Queue[str]()
        quota.subscribe(waits.put_nowait)

        async def wait(n: int) -> None:
            lease = await quota.acquire("a", 1, until=soon())
            served.append(n)
            lease.release()

        tasks = []
        for n in range(5):
            tasks.append(asyncio.create_task(wait(n)))
            assert await waits.get() == "a"
        tasks.pop(2).cancel()  # who goes away holds up nobody
        held.release()
        await asyncio.gather(*tasks)
        assert served == [0, 1, 3, 4]
        (await quota.acquire("a", 1, until=soon())).release()


@kinds
async def test_who_waits_too_long_gets_none_and_loses_none(kind: str) -> None:
    async with both(kind) as make:
        quota = make()
        held = await quota.acquire("a", 1, until=0.0)
        with pytest.raises(TimeoutError):
            await quota.acquire("a", 1, until=asyncio.get_running_loop().time() + SHORT_S)
        held.release()
        (await quota.acquire("a", 1, until=soon())).release()


async def test_a_lease_that_is_granted_to_a_task_that_is_cancelled_is_not_lost() -> None:
    quota = LocalQuota()
    held = await quota.acquire("a", 1, until=0.0)
    waiting = asyncio.create_task(quota.acquire("a", 1, until=soon()))
    await asyncio.sleep(0)
    held.release()
    waiting.cancel()  # before it could take what it was given
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert quota.used("a") == 0


@kinds
async def test_two_pools_together_have_no_more_connections_than_one(kind: str) -> None:
    """As a daemon has them while settings are reloaded, or several processes."""
    async with both(kind) as make, FaultySpeech(coding=CODING) as speech:
        async with Pool(quota=make()) as one, Pool(quota=make()) as other:
            where = endpoint(speech, connections=2)
            slots = [(await one.lease([where], ignore))[0] for _ in range(2)]
            waiting = asyncio.create_task(speak(other, where))
            await ended(slots[0])  # an idle connection is given back because the other pool waits for one
            await waiting
            assert speech.open <= 2
            assert (one.connections("test"), other.connections("test")) == (1, 1)
            await ended(slots[1])
        assert speech.connections == 3
