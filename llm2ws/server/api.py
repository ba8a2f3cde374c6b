"""What one API of the daemon is made of. A new API is a file that has one, and a row in `app.APIS`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from aiohttp import web

from .problems import Problem, openai_error

__all__ = ["EVENT_STREAM", "JSON", "Api", "Route"]

EVENT_STREAM = "text/event-stream"
JSON = "application/json"


class Route(NamedTuple):
    """One method of one path, what serves it, and what the OpenAPI document says of it.

    `summary`: "" for a WebSocket, for which the document has no place. `answers`: the media types that a successful answer may
    have. `body`: the type of what a request holds, None where that is nothing.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str = ""
    answers: Sequence[str] = (JSON,)
    body: object = None


class Api(NamedTuple):
    """One protocol that the daemon speaks to clients; the documentation and the metrics call it a face.

    `error`: makes the response for a problem and a request id. `public`: served without a client key.
    """

    routes: Sequence[Route]
    error: Callable[[Problem, str], web.Response] = openai_error
    public: bool = False
