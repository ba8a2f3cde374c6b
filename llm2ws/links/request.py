"""A turn that waits for a place at a speech endpoint, and the errors for which it may wait in vain."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Hashable
from dataclasses import dataclass
from http import HTTPStatus

from ..errors import ConnectFailed, LocalProtocolError
from .connection import ConnectionSlot
from .endpoint import Endpoint
from .health import Connections

__all__ = ["LeaseRequest", "not_open", "taken"]


@dataclass(slots=True, eq=False)
class LeaseRequest:
    """A turn that waits for a place. Times are those of the event loop.

    `last`, `avoid`: the place to prefer, and the place that the turn has and would leave. `client`: whom it is for; None for
    nobody's. `patient`: it waits for a place until `until`; else it takes what can be had after one try to open a connection.
    `warming`: no turn has begun, and only an open connection is wanted.
    """

    connections: Connections
    last: object
    avoid: object
    client: Hashable
    patient: bool
    until: float
    slot: asyncio.Future[ConnectionSlot | None]
    round: int = 0
    tried: bool = False  # to open a connection for it
    warming: bool = False

    def fail(self, error: Exception) -> None:
        """Have the turn raise an error."""
        if not self.slot.done():
            self.slot.set_exception(copy.copy(error))  # The error of one turn would keep the traceback of another alive.


def not_open() -> LocalProtocolError:
    """Return the error for a pool that is used outside its block."""
    return LocalProtocolError("the pool is not open", hint="use it with `async with`")


def taken(endpoint: Endpoint, what: str, share: int | None) -> ConnectFailed:
    """Return the error for a turn that finds all of `share` in use. `what`: in the plural. `share`: None where not known."""
    limit = "" if share is None else f" ({share})"
    message = f"all {what} to {endpoint.name or endpoint.dialect.name} are in use{limit}"
    return ConnectFailed(message, hint="try again later, or raise the limit", status=HTTPStatus.TOO_MANY_REQUESTS, retry_s=1.0)
