"""Health checks and metrics: whether the daemon lives, can take a conversation, and what it has counted."""

from __future__ import annotations

from aiohttp import web

from ..watch.metrics import CONTENT_TYPE
from .api import Api, Route
from .daemon import DAEMON

__all__ = ["APIS"]


async def _alive(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _ready(request: web.Request) -> web.Response:
    daemon = request.app[DAEMON]
    if daemon.draining.is_set():
        why_not = "draining"
    else:
        why_not = await daemon.readiness.why_not(daemon.service, daemon.settings.server.ready_s)
    return web.json_response({"ready": not why_not, "reason": why_not or None}, status=503 if why_not else 200)


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DAEMON].metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


_READY = "Whether it can take a conversation; 503 and the reason when not"
_HEALTH = [Route("GET", "/healthz", _alive, "Whether the daemon lives"), Route("GET", "/readyz", _ready, _READY)]
_METRICS = Route("GET", "/metrics", _metrics, "What it has counted, for Prometheus", ("text/plain",))
APIS = [Api(_HEALTH, public=True), Api([_METRICS])]
