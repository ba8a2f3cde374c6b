"""Which kind of link reaches an endpoint: the scheme of its URL chooses."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import Protocol
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..speech.dialect import Dialect
from .link import Link
from .websocket import open_websocket

__all__ = ["OPENERS", "Opener", "open_link"]


class Opener(Protocol):
    """Opens one kind of link; the arguments are those of `open_link`."""

    def __call__(self, dialect: Dialect, *, tls: ssl.SSLContext | None, open_s: float, close_s: float) -> Awaitable[Link]: ...


OPENERS: dict[str, Opener] = {"ws": open_websocket, "wss": open_websocket}


async def open_link(dialect: Dialect, *, tls: ssl.SSLContext | None, open_s: float, close_s: float) -> Link:
    """Open a link to the endpoint of a dialect.

    `tls`: None for the system's authorities. `open_s`, `close_s`: seconds for all of the opening and all of the closing.
    Raises ConfigError for a request that cannot be made, ConnectFailed for one that is not granted.
    """
    scheme = urlsplit(dialect.request().url).scheme
    if scheme not in OPENERS:
        what = f"speech URL: {scheme!r} is not a kind of link" if scheme else "speech URL: no scheme"
        raise ConfigError(what, hint=f"begin it with one of {', '.join(f'{name}://' for name in OPENERS)}")
    return await OPENERS[scheme](dialect, tls=tls, open_s=open_s, close_s=close_s)
