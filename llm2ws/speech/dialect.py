"""What the protocol of a vendor has to provide: a dialect without state, and data about how the endpoint behaves.

A dialect translates commands to messages and messages to events, and no more. The Session keeps what has been sent, what is
awaited and what may be sent next; it reads `traits` and `limits`, and has no branch on the name of a vendor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from ..address import may_carry_key
from ..audio import AudioFormat, Encoding
from ..errors import ConfigError
from ..text.fragments import Policy
from .messages import Command, Event, Failed

__all__ = ["Dialect", "Limits", "Request", "Setup", "Traits", "check_setup", "checked_url"]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is fixed when a connection is opened. Turns with equal setups can share connections."""

    url: str  # "" for the vendor's own address
    voice: str  # "" for the dialect's default
    format: AudioFormat
    key: str = field(default="", repr=False)  # "" for none
    speed: float = 1.0
    model: str = ""  # "" for the dialect's default; of vendors whose voices are not bound to one
    language: str = ""  # as the vendor writes it, such as de; "" for what the voice or the text says


@dataclass(frozen=True, slots=True)
class Request:
    """The opening handshake. Headers may hold a key: they are kept out of `repr`."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an endpoint allows on one connection. None = no such limit."""

    chars_per_speak: int | None = None
    chars_per_window: int | None = None
    flushes_per_window: int | None = None
    flush_reserve: int = 0  # of these, kept for final flushes
    window_s: float = 60.0
    life_s: float | None = None  # age at which the endpoint closes a connection, however busy


@dataclass(frozen=True, slots=True)
class Traits:
    """How an endpoint behaves."""

    turns_at_once: int = 1  # on one connection
    audio_has_ref: bool = False  # audio and acks name their turn
    audio_waits_for_flush: bool = True  # text is spoken when flushed, any number of times in a turn; else as it comes
    ends_with_flush_ack: bool = True  # a turn is over when its last Flush is acked; else `Ended` says so
    cancels: bool = True  # there is a message for Cancel; else only closing the connection stops a turn
    confirms_cancel: bool = True  # a cancelled turn is over when the endpoint says so; else at once, as its audio has its name
    # The endpoint ends a context by itself when it has given no audio for so long. A Flush ends it before that, and the turn
    # goes on in another. None: a context lives as long as its turn.
    context_idle_s: float | None = None
    played_since_opened: bool = False  # Cancel tells what was heard since the connection was opened, more each time
    ping_s: float = 20.0  # WebSocket pings
    keepalive_s: float | None = None  # an idle context, or a connection without any, wants a KeepAlive message this often


class Dialect(Protocol):
    """A vendor's protocol for one Setup. Stateless: the same call always gives the same answer."""

    @property
    def name(self) -> str:
        """The name in settings and in messages to people."""

    @property
    def format(self) -> AudioFormat:
        """The format of the audio that comes."""

    @property
    def policy(self) -> Policy:
        """How text is cut for this endpoint."""

    @property
    def limits(self) -> Limits:
        """What the vendor allows on one connection, unless the settings say otherwise."""

    @property
    def traits(self) -> Traits:
        """How the endpoint behaves."""

    def request(self) -> Request:
        """Return the opening handshake. Raises ConfigError for a Setup that this vendor does not offer."""

    def encode(self, command: Command) -> list[str | bytes]:
        """Return the messages for a command, [] where the vendor has none for it."""

    def decode(self, message: str | bytes) -> list[Event]:
        """Return the events in a message. Never raises: a message that cannot be read is `Unknown`."""

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Return what it means that a handshake was answered with another status than 101."""

    def closed(self, code: int, reason: str) -> Failed:
        """Return what a close frame means. `code`: 1006 where the connection ended without one."""


def check_setup(
    setup: Setup, vendor: str, rates_hz: Mapping[Encoding, Sequence[int]], speeds: tuple[float, float] | None = None
) -> None:
    """Check a Setup against what a vendor has. Raises ConfigError for another format or speed.

    `rates_hz`: the sample rates of each encoding. `speeds`: the least and the most; None for any.
    """
    fmt = setup.format
    rates = rates_hz.get(fmt.encoding, ())
    if fmt.sample_rate_hz not in rates:
        allowed = f"{', '.join(map(str, rates))} Hz" if rates else "another encoding"
        raise ConfigError(f"{vendor} has no {fmt}", hint=f"for {fmt.encoding} give one of {allowed}")
    if speeds is not None and not speeds[0] <= setup.speed <= speeds[1]:
        raise ConfigError(f"{vendor} has no speed {setup.speed:g}", hint=f"give {speeds[0]:g} to {speeds[1]:g}")


def checked_url(url: str, *, key: str, path: str) -> str:
    """Return a WebSocket URL that may be opened: `path` is put in where it has none.

    Raises ConfigError for what is no WebSocket URL, and for a key that would cross a network in clear text.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigError(f"speech URL: {exc}", hint="write it as wss://host:port/path") from None
    if parts.scheme not in ("ws", "wss") or not host:
        raise ConfigError("speech URL: not a WebSocket address", hint="write it as wss://host:port/path")
    if parts.username or parts.password:
        raise ConfigError("speech URL: holds a user or password", hint="give the key as api_key, not in the URL")
    if port == 0:
        raise ConfigError("speech URL: port 0", hint="write the port on which the endpoint listens")
    if key and not may_carry_key(parts.scheme, host):
        raise ConfigError(f"speech endpoint {host}: a key would be sent in clear text", hint="use wss://")
    if parts.path in ("", "/"):
        parts = parts._replace(path=path)
    return parts._replace(fragment="").geturl()
