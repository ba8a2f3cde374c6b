"""Whether the daemon lives, can take a conversation, and what it has counted."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from ..errors import ConfigError, SpeechError
from ..watch.metrics import CONTENT_TYPE
from .daemon import DAEMON, Daemon, Face, told

__all__ = ["FACES", "Readiness"]

_log = logging.getLogger(__name__)

FRESH_S = 5.0  # for so long an answer counts, and the endpoint is not asked again
PROBE_S = 3.0  # how long /readyz waits for an endpoint to answer


class Readiness:
    """Whether an endpoint has answered lately; asks it when nobody has."""

    def __init__(self) -> None:
        self._answered_at = -float("inf")
        self._why = "no endpoint has answered yet"
        self._logged = ""
        self._asking = asyncio.Lock()

    def answered(self) -> None:
        """An endpoint gave a connection, or audio."""
        self._answered_at = asyncio.get_running_loop().time()
        self._logged = ""

    async def why_not(self, daemon: Daemon) -> str:
        """Why no conversation can be taken; "" when one can."""
        if daemon.draining.is_set():
            return "draining"
        loop, ready_s = asyncio.get_running_loop(), daemon.settings.server.ready_s
        endpoint = daemon.service.speech[0]
        async with self._asking:
            if loop.time() - self._answered_at > min(FRESH_S, ready_s):
                try:
                    async with asyncio.timeout(PROBE_S):
                        await daemon.service.warm()
                    self.answered()
                except TimeoutError:
                    self._why = f"{endpoint}: the speech endpoint did not answer in time"
                except (SpeechError, ConfigError) as exc:
                    self._complain(str(exc))
                    what = told(exc).message if isinstance(exc, SpeechError) else "its settings are wrong: the log says how"
                    self._why = f"{endpoint}: {what}"
        return self._why if loop.time() - self._answered_at > ready_s else ""

    def _complain(self, what: str) -> None:
        """Once: it is asked every few seconds."""
        if what != self._logged:
            self._logged = what
            _log.warning("%s", what)


async def _alive(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _ready(request: web.Request) -> web.Response:
    daemon = request.app[DAEMON]
    why = await daemon.readiness.why_not(daemon)
    return web.json_response({"ready": not why, "reason": why or None}, status=503 if why else 200)


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DAEMON].metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


FACES = [
    Face([web.get("/healthz", _alive), web.get("/readyz", _ready)], public=True),
    Face([web.get("/metrics", _metrics)]),
]
