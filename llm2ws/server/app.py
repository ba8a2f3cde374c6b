"""The daemon's application: the faces, and what every request passes through."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from ..errors import Llm2wsError
from ..watch.log import place_of, turn_id
from . import chat, health, models, openapi, page, realtime, relay, speak, speech
from .access import preflight
from .daemon import CLIENT, DAEMON, REQUEST_ID, SERVICE, Daemon, Face, Problem, drained, problem_of

__all__ = ["create_app"]

_log = logging.getLogger(__name__)

# All that aiohttp logs here are the subprotocols that a client offers, at WARNING, where none is taken: one may be its key.
logging.getLogger("aiohttp.websocket").setLevel(logging.CRITICAL)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_NOTHING = Face([])
_SERVED = (chat.FACE, *health.FACES, models.FACE, page.FACE, realtime.FACE, relay.FACE, speak.FACE, *speech.FACES)
_FACES = (*_SERVED, openapi.face(_SERVED))
_FACE_OF = {route.path: face for face in _FACES for route in face.routes}

_ORIGIN = web.RequestKey("origin", str)
_PREPARED = web.RequestKey("prepared", bool)


def create_app(daemon: Daemon) -> web.Application:
    """The application that serves `daemon`."""
    app = web.Application(middlewares=[_correlate, _refuse, _admit], client_max_size=daemon.access.body_bytes)
    app[DAEMON] = daemon
    for face in _FACES:
        app.add_routes(face.routes)
    app.on_response_prepare.append(_mark)
    return app


def _face(request: web.Request) -> Face:
    resource = request.match_info.route.resource
    return _FACE_OF.get(resource.canonical if resource else "", _NOTHING)


@web.middleware
async def _correlate(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """One id for the request, in its answer and in every line that is logged for it: the client's, or a new UUID."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    with turn_id(request[REQUEST_ID]):
        return await handler(request)


@web.middleware
async def _refuse(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Errors become answers in the form of the vendor whose protocol it is."""
    face = _face(request)
    try:
        response = await handler(request)
    except Problem as exc:
        problem = exc
    except (web.HTTPException, Llm2wsError) as exc:
        problem = problem_of(exc)
    except ConnectionError:  # the client has gone
        return _break_off(request)
    except Exception as exc:  # noqa: BLE001 - the edge: whatever it is, the daemon serves on
        _log.error("a bug of llm2ws: %s, %s", type(exc).__name__, place_of(exc))
        _log.debug("the bug", exc_info=True)  # may quote what a client wrote
        problem = Problem(
            500, "a bug of llm2ws: its log says more under this request's id", code="internal_error", kind="server_error"
        )
    else:
        _count(request, response.status)
        return response
    _count(request, problem.status)
    if request.get(_PREPARED):
        # The answer had begun, so it cannot be another one: the client sees it break off.
        _log.warning("%s broke off: %s", request.path, problem.message)
        return _break_off(request)
    return face.error(problem, request[REQUEST_ID])


def _break_off(request: web.Request) -> web.StreamResponse:
    """End the connection. The answer that is given here reaches nobody; an exception would be logged with its traceback."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


@web.middleware
async def _admit(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Only who may ask gets to a face, and counts against what is theirs."""
    daemon, face = request.app[DAEMON], _face(request)
    origin = daemon.access.check_origin(request)
    if origin is not None:
        request[_ORIGIN] = origin
    if request.method == "OPTIONS" and hdrs.ORIGIN in request.headers:
        return preflight(request, origin)
    if face is not _NOTHING:
        daemon.access.check_type(request)
    if face.public:
        request[CLIENT] = daemon.access.anyone
        request[SERVICE] = daemon.service
        return await handler(request)
    client = request[CLIENT] = daemon.access.client(request)
    if face is _NOTHING:
        return await handler(request)  # 404 or 405
    client.message()
    if daemon.draining.is_set():
        raise drained()
    service = request[SERVICE] = daemon.enter()
    try:
        with client.conversation():
            return await handler(request)
    finally:
        daemon.leave(service)


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says."""
    request[_PREPARED] = True
    headers = response.headers
    headers["X-Request-Id"] = request.get(REQUEST_ID, "")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Cache-Control", "no-store")
    headers["Server"] = "llm2ws"
    if origin := request.get(_ORIGIN):
        headers["Access-Control-Allow-Origin"] = request.headers.get(hdrs.ORIGIN, origin)
        headers["Access-Control-Expose-Headers"] = "X-Request-Id, Server-Timing, Retry-After"
        headers["Vary"] = "Origin"


def _count(request: web.Request, status: int) -> None:
    resource = request.match_info.route.resource
    request.app[DAEMON].metrics.request(resource.canonical if resource else "", status)
