"""What a connection needs of a wire to a speech endpoint, whatever carries it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Link", "LinkClosed"]

NO_CLOSE_FRAME = 1006  # the WebSocket close code for an end without a close frame (RFC 6455, section 7.1.5)


class LinkClosed(Exception):
    """A link has ended.

    `code` and `reason` are those of the peer's close frame; a wire without close frames chooses the WebSocket code that
    means the same. `deaf`: the link was closed from this side because the peer answers no ping.
    """

    def __init__(self, code: int = NO_CLOSE_FRAME, reason: str = "", *, deaf: bool = False) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.deaf = deaf


class Link(Protocol):
    """An open wire that carries messages in order, both ways.

    Whatever waits raises LinkClosed once the link has ended.
    """

    @property
    def writable(self) -> bool:
        """Whether `send_now` may be called: the link is open, and the system has taken all that was sent before."""

    @property
    def latency_s(self) -> float:
        """Seconds from the last ping to its answer; NaN before the first answer."""

    def send_now(self, messages: Iterable[str | bytes]) -> None:
        """Send messages without waiting for room. Allowed only while `writable`."""

    async def send(self, message: str | bytes) -> None:
        """Send a message when there is room for it."""

    async def recv(self) -> str | bytes:
        """Return the next message."""

    async def ping(self) -> None:
        """Ask the peer for a sign of life, and wait for it."""

    async def close(self) -> None:
        """Close the link in good order. Return when it is closed; raise nothing."""

    def abort(self) -> None:
        """End the link at once. Does nothing on a link that has ended."""
