"""One connection to a speech endpoint, once it is open: a link, the session on it, and the turns that it carries.

A connection never reconnects: it ends once, with one `LinkEnded`, and each turn on it gets an event that says so. The Pool
decides what comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import LocalProtocolError
from ..speech.dialect import Dialect, Limits, Traits
from ..speech.messages import Cancelled, Ended, Event, Failed, Opened, Scope, Warned
from ..speech.session.session import Session
from ..speech.slot import Listener
from .link import Link, LinkClosed
from .opening import open_link

__all__ = ["Connection", "ConnectionSlot", "LinkEnded"]

OPEN_S = 10.0  # For TCP, TLS and the handshake together.
DRAIN_S = 2.0  # For the endpoint to close the link after the message Close.
CLOSE_S = 1.0  # For the closing handshake, when the endpoint did not.
VERIFY_AFTER_S = 5.0  # After so long a silence a turn that begins has the connection pinged.
VERIFY_S = 1.5  # For the answer to that ping.

_log = logging.getLogger("llm2ws.connection")


@dataclass(frozen=True, slots=True)
class LinkEnded:
    """Why a connection is over.

    `ours`: it was closed from this side, in good order. `interrupted`: all its turns had been cancelled.
    """

    why: Failed
    ours: bool = False
    interrupted: bool = False


class ConnectionSlot:
    """A place for one turn on one connection: a `speech.slot.Slot`.

    Events go to the listener from the connection's reader: it must not block.
    """

    def __init__(self, connection: Connection, ref: int, listener: Listener) -> None:
        self.listener = listener
        self.on_over: Listener | None = None
        self.live = True
        self.cancelled = False  # asked for, and perhaps not confirmed yet
        self._connection = connection
        self._session = connection.session
        self.ref = ref

    def speak(self, text: str) -> None:
        """Send text."""
        self._session.speak(self.ref, text, self._connection.now())
        self._connection.touch()

    def flush(self) -> None:
        """Ask for the audio of all text sent so far."""
        self._session.flush(self.ref, self._connection.now())
        self._connection.touch()

    def end(self) -> None:
        """Say that no more text comes. `Ended` follows, at once when nothing is awaited."""
        self._connection.dispatch(self._session.end(self.ref, self._connection.now()))

    def cancel(self, *, played_s: float | None = None) -> None:
        """Stop the turn. Nothing more reaches the listener but `Cancelled`. Does nothing when the turn is over."""
        if self.live:
            self.cancelled = True
            played_ms = None if played_s is None else round(played_s * 1_000)
            self._connection.dispatch(self._session.cancel(self.ref, self._connection.now(), played_ms=played_ms))

    def over(self, event: Event) -> None:
        """Pass on the event that ended the turn."""
        self.live = False
        if self.on_over is not None:
            self.on_over(event)
        self.listener(event)

    def speak_at(self, n_chars: int, now: float) -> float:
        """Return the earliest time at which so many characters may be sent: `now` once the connection is over."""
        return now if self._connection.ended is not None else self._session.speak_at(n_chars, now)

    def flush_at(self, now: float, *, final: bool = False) -> float:
        """Return the earliest time at which a Flush may be sent. `final`: it is the last of its turn."""
        return self._session.flush_at(now, final=final)

    def spread_at(self, speech_s: float, now: float) -> float:
        """Return when a Flush for which so much speech waits should be sent, so that Flushes do not run out."""
        return self._session.spread_at(speech_s, now)

    @property
    def quiet_since(self) -> float:
        """When text of the turn was last sent, or audio of it last came."""
        return self._session.quiet_since(self.ref)

    @property
    def traits(self) -> Traits:
        """How the endpoint behaves."""
        return self._session.dialect.traits

    @property
    def place(self) -> object:
        """The connection, to a turn that need not know what it is."""
        return self._connection

    @property
    def spent(self) -> bool:
        """Whether the connection takes no new turn."""
        return self._connection.spent

    @property
    def spent_at(self) -> float:
        """When the connection is spent by its age; inf for never."""
        return self._connection.spent_at

    @property
    def connection(self) -> Connection:
        """The connection that the turn is on."""
        return self._connection


class Connection:
    """A connection that is open. `run` must be kept running as a task; it returns when the connection is over."""

    def __init__(
        self,
        link: Link,
        session: Session,
        *,
        now: Callable[[], float],
        life_share: float = 1.0,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.session = session
        self.now = now  # monotonic seconds
        self.ended: LinkEnded | None = None
        self._link = link
        self._slots: dict[int, ConnectionSlot] = {}
        self._to_write = asyncio.Event()
        self._writing = False  # the writer has messages in hand that are not sent yet
        self._on_change = on_change
        self._free = self._free_places  # as of the last `touch`
        life_s = session.limits.life_s
        self.spent_at = (
            math.inf if life_s is None else session.opened_at + life_share * life_s
        )  # when it takes no new turn any more
        self._last_heard_at = session.opened_at
        self._ping: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    @classmethod
    async def open(
        cls,
        dialect: Dialect,
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        silence_s: float = 10.0,
        open_s: float = OPEN_S,
        life_share: float = 1.0,
        on_change: Callable[[], None] | None = None,
    ) -> Connection:
        """Open a connection. `tls`: None for the system's authorities. `limits`: None for the dialect's own.

        `silence_s`: how long the endpoint may send nothing while it owes audio. `open_s`: for all of the opening. `life_share`:
        the share of the life in the limits after which the connection takes no new turn. `on_change` is called when a place
        becomes free.
        Raises ConfigError for a request that cannot be made, ConnectFailed for one that is not granted.
        """
        link = await open_link(dialect, tls=tls, open_s=open_s, close_s=CLOSE_S)
        now = asyncio.get_running_loop().time
        session = Session(dialect, now=now(), limits=limits, silence_s=silence_s)
        return cls(link, session, now=now, life_share=life_share, on_change=on_change)

    def lease(self, listener: Listener) -> ConnectionSlot:
        """Return a place for a turn. Raises LocalProtocolError when there is none."""
        if self.ended is not None:
            raise LocalProtocolError("the connection is over")
        ref = self.session.begin(self.now())
        slot = self._slots[ref] = ConnectionSlot(self, ref, listener)
        if self.now() - self._last_heard_at > VERIFY_AFTER_S and (self._ping is None or self._ping.done()):
            self._ping = asyncio.get_running_loop().create_task(self._verify())
        self.touch()
        return slot

    @property
    def places(self) -> int:
        """How many turns may be begun now."""
        return 0 if self.ended is not None or self._closing or self.spent else self.session.places

    @property
    def clearing(self) -> bool:
        """Whether a place will be free in a moment, because the endpoint is about to confirm an interruption.

        Never where turns have names: they need not wait for each other.
        """
        return self.ended is None and self.session.clearing

    @property
    def spent(self) -> bool:
        """Whether it takes no new turn, as it is near the end of its life or has a turn that could not be stopped."""
        return self.session.retired or self.now() >= self.spent_at

    @property
    def closing(self) -> bool:
        """Whether it is being closed from this side, and is not over yet."""
        return self._closing and self.ended is None

    @property
    def busy(self) -> bool:
        """Whether it has turns."""
        return bool(self._slots)

    @property
    def idle(self) -> bool:
        """Whether it has no turn and is not being closed."""
        return self.ended is None and not self._closing and not self._slots and not self.session.clearing

    @property
    def audio_came(self) -> bool:
        """Whether the endpoint has sent audio, of whatever turn."""
        return self.session.audio_came

    @property
    def age_s(self) -> float:
        """Seconds since the handshake."""
        return self.now() - self.session.opened_at

    @property
    def ping_s(self) -> float:
        """How long the endpoint took to answer the last ping, in seconds.

        NaN before the first, which is sent `traits.ping_s` after the handshake.
        """
        return self._link.latency_s

    async def run(self) -> None:
        """Read, write and keep time until the connection is over."""
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write())
                closed = await self._read()
                self._end(closed)  # At once: while the writer stops, a turn must not speak into a session that is over.
                writer.cancel()
        finally:
            if self._ping is not None:
                self._ping.cancel()
            if self.ended is None:  # This task was cancelled, or a listener raised.
                self.abort()

    def retire(self) -> None:
        """Take no new turn from now on."""
        self._closing = True

    def abort(self) -> None:
        """End at once, without a message to the endpoint."""
        self._give_up(Failed(Scope.LINK, "the connection was given up", retry_s=0.0))

    async def aclose(self) -> None:
        """Send Close, wait `DRAIN_S` for an endpoint that knows the message to close the link, then close it. `run` returns."""
        if self.ended is None:
            self._closing = True
            drain_s = DRAIN_S if self.session.close(self.now()) else 0.0
            self.touch()
            try:
                async with asyncio.timeout(drain_s):
                    await self._over.wait()
            except TimeoutError:
                # Behind a peer that does not read, even the close frame finds no room.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._link.close()
                self._link.abort()
        await self._over.wait()

    # Everything that changes the session ends in `touch`

    def dispatch(self, events: list[Event]) -> None:
        """Pass events on to their turns, then send what is due and set the timer."""
        for event in events:
            match event:
                case Opened():
                    _log.debug("opened: request id %s", event.request_id)
                case Warned():
                    _log.warning("%s warns: %s", self.session.dialect.name, event.code)
                case Failed(scope=Scope.LINK):
                    self._give_up(event)
                case _:
                    self._pass_on(event)
        self.touch()

    def touch(self) -> None:
        """Send what the session has to send, and set its timer."""
        self._send()
        free, self._free = self._free, self._free_places
        if self._on_change is not None and self._free > free:
            self._on_change()
        deadline = self.session.next_deadline
        if deadline is None or self.ended is not None:
            return
        # A later deadline waits for the earlier timer, which then sets itself again: no timer is made for each message.
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    @property
    def _free_places(self) -> int:
        """How many turns may be begun; 1 for a connection that is only waiting to be closed."""
        return int(not self._slots) if self.session.retired else self.session.places

    def _tick(self) -> None:
        self._timer = None
        self.dispatch(self.session.tick(self.now()))

    def _pass_on(self, event: Event) -> None:
        ref = getattr(event, "ref", None)
        slot = self._slots.get(ref) if ref is not None else None
        if slot is None:
            return
        if isinstance(event, Ended | Cancelled | Failed):
            del self._slots[slot.ref]
            slot.over(event)
        else:
            slot.listener(event)

    async def _verify(self) -> None:
        """End a connection that does not answer a ping. The turn that begins meanwhile need not wait for the answer."""
        try:
            async with asyncio.timeout(VERIFY_S):
                await self._link.ping()
        except TimeoutError:
            self._give_up(Failed(Scope.LINK, "the connection was dead", "look at the network", retry_s=0.0))
        except LinkClosed:
            pass  # The reader finds out why.

    def _send(self) -> None:
        """Send at once where there is room, else have the writer do it: waking it would be a fifth of what a token takes."""
        if not self.session.has_outgoing:
            return
        if self._writing or not self._link.writable:
            self._to_write.set()
        else:
            self._link.send_now(self.session.outgoing())

    async def _write(self) -> None:
        try:
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                self._writing = True
                for message in self.session.outgoing():
                    await self._link.send(message)
                self._writing = False
        except LinkClosed:
            pass  # The reader finds out why.

    async def _read(self) -> Failed:
        try:
            while True:
                message = await self._link.recv()
                self._last_heard_at = now = self.now()
                self.dispatch(self.session.receive(message, now))
        except LinkClosed as exc:
            if exc.deaf:
                return Failed(Scope.LINK, "the endpoint does not answer pings", "look at the network", 0.0, code=1011)
            return self.session.receive_close(exc.code, exc.reason)

    def _give_up(self, failed: Failed) -> None:
        """End a connection that cannot be ended in good order."""
        self._end(failed)
        self._link.abort()

    def _end(self, why: Failed) -> None:
        self._over.set()
        if self.ended is not None:
            return
        slots, self._slots = self._slots, {}
        interrupted = bool(slots) and all(slot.cancelled for slot in slots.values())
        self.ended = LinkEnded(why, ours=self._closing, interrupted=interrupted)
        _log.debug("ended after %.0f s: %s; counted: %s", self.age_s, why.what, self.session.counts)
        if self._timer is not None:
            self._timer.cancel()
        for slot in slots.values():
            slot.over(why)
