"""The daemon's web application: its APIs, and what every request passes through."""

from __future__ import annotations

import logging
import re
import socket
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from ..errors import Llm2wsError
from ..watch.log import place_of, turn_id
from . import chat, health, openapi, page, realtime, relay, speak, speech
from .access import preflight
from .api import Api
from .daemon import CLIENT, DAEMON, REQUEST_ID, SERVICE, Daemon
from .problems import Problem, draining_problem, logged_problem

__all__ = ["APIS", "create_app"]

_log = logging.getLogger(__name__)

# All that aiohttp logs here are the subprotocols that a client offers, when the server accepts none: one may be its key.
logging.getLogger("aiohttp.websocket").setLevel(logging.CRITICAL)

# How long the kernel waits for a client's machine: 30 s idle and then three probes, or two minutes (in ms) for it to
# acknowledge data. The kernel's own times are hours.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 120_000}

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

APIS = (chat.API, *health.APIS, page.API, realtime.API, relay.API, speak.API, *speech.APIS)
_NO_API = Api([])

_API_OF = web.AppKey("api_of", dict[str, Api])  # By the path of a route.
_ORIGIN = web.RequestKey("origin", str)
_PREPARED = web.RequestKey("prepared", bool)


def create_app(daemon: Daemon) -> web.Application:
    """Return the application that serves `daemon`."""
    apis = (*APIS, openapi.api(APIS))
    app = web.Application(middlewares=[_correlate, _refuse, _admit], client_max_size=daemon.access.body_bytes)
    app[DAEMON] = daemon
    app[_API_OF] = {route.path: api for api in apis for route in api.routes}
    for api in apis:
        app.add_routes([web.RouteDef(route.method, route.path, route.handler, {}) for route in api.routes])
    app.on_response_prepare.append(_set_headers)
    return app


def _route(request: web.Request) -> str:
    """Return the path of the route that a request has found, with its variables; "" where there is no such route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else ""


def _api(request: web.Request) -> Api:
    return request.app[_API_OF].get(_route(request), _NO_API)


@web.middleware
async def _correlate(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Give the request an id, for its answer and every line that is logged for it: the client's own, or a new UUID."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    _watch_for_vanished(request)
    with turn_id(request[REQUEST_ID]):
        return await handler(request)


def _watch_for_vanished(request: web.Request) -> None:
    """Let the kernel find out when the client's machine or network is gone, which sends no end of the connection."""
    connection: socket.socket | None = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # Not every system has all of them.
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@web.middleware
async def _refuse(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer an error in the form of the API that was asked."""
    try:
        response = await handler(request)
    except Problem as exc:
        problem = exc
    except (web.HTTPException, Llm2wsError) as exc:
        problem = logged_problem(exc)
    except ConnectionError:  # The client has gone.
        return _break_off(request)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the daemon serves on
        _log.error("a bug of llm2ws: %s, %s", type(exc).__name__, place_of(exc))
        _log.debug("the bug", exc_info=True)  # A traceback may quote what a client wrote.
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
    return _api(request).error(problem, request[REQUEST_ID])


def _break_off(request: web.Request) -> web.StreamResponse:
    """End the connection. The response reaches nobody; an exception here would be logged by aiohttp with its traceback."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


@web.middleware
async def _admit(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Serve only requests that are allowed, and count them against their client's limits."""
    daemon, api = request.app[DAEMON], _api(request)
    origin = daemon.access.check_origin(request)
    if origin is not None:
        request[_ORIGIN] = origin
    if request.method == "OPTIONS" and hdrs.ORIGIN in request.headers:
        return preflight(request, origin)
    if api is not _NO_API:
        daemon.access.check_type(request)
    if api.public:
        request[CLIENT] = daemon.access.keyless_client
        request[SERVICE] = daemon.service
        return await handler(request)
    client = request[CLIENT] = daemon.access.client(request)
    if api is _NO_API:
        return await handler(request)  # Which answers 404 or 405.
    client.message()
    if daemon.draining.is_set():
        raise draining_problem()
    service = request[SERVICE] = daemon.enter()
    try:
        with client.conversation():
            return await handler(request)
    finally:
        daemon.leave(service)


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers that every answer has."""
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
    request.app[DAEMON].metrics.request(_route(request), status)
