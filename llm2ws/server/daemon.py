"""The state of the daemon that all requests share, and the keys under which a request finds it."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from ..service import Service
from ..settings.fields import Settings
from ..watch.metrics import Metrics
from .access import Access, ApiClient
from .readiness import Readiness

__all__ = ["CLIENT", "DAEMON", "REQUEST_ID", "SERVICE", "Daemon"]


class Daemon:
    """What all requests share. `service`, `access` and `settings` are replaced when settings are reloaded."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        access: Access,
        metrics: Metrics,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings
        self.service = service
        self.access = access
        self.metrics = metrics
        self.readiness = Readiness()
        self.tls = tls
        self.url = ""  # Where it listens.
        self.draining = asyncio.Event()  # No new conversation is taken; idle WebSockets are closed.
        self.deadline = asyncio.Event()  # What still runs is ended, and its clients are told why.
        self.turns: set[Callable[[], Awaitable[None]]] = set()  # Each ends an answer that is in progress.
        self._requests: Counter[Service] = Counter()  # Those in progress, by the service that they began with.
        self._request_ended = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()  # Each closes a replaced service after its last request.
        metrics.gauge("conversations", "Requests and WebSockets in progress", lambda: self.running)
        metrics.gauge("answers_running", "Answers in progress", lambda: len(self.turns))
        metrics.gauge("tasks", "Tasks of the event loop; more and more without more conversations is a leak", _count_tasks)
        metrics.gauge("speech_connections", "Open connections to speech endpoints", self._connections)
        self._measure_pings()

    def _connections(self) -> float:
        return sum(self.service.pool.connections(name) for name in self.service.speech)

    def _measure_pings(self) -> None:
        for name in self.service.speech:
            self.metrics.ping(name, partial(self._ping_s, name))

    def _ping_s(self, name: str) -> float:
        return self.service.pool.ping_s(name)

    def exchange(self, settings: Settings, service: Service, access: Access) -> None:
        """Serve new requests with these. The service of before is closed when its last request has ended."""
        task = asyncio.create_task(self._close_unused(self.service))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self.settings, self.service, self.access = settings, service, access
        self._measure_pings()

    async def _close_unused(self, service: Service) -> None:
        try:
            await self.until_unused(service)
        finally:
            await service.__aexit__(None, None, None)

    async def close(self) -> None:
        """Close all services. To be called when no request is left."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.service.__aexit__(None, None, None)

    def enter(self) -> Service:
        """Count a request that begins, and return the service that it uses to its end."""
        self._requests[self.service] += 1
        return self.service

    def leave(self, service: Service) -> None:
        """Count a request that has ended, by the service that it used."""
        self._requests[service] -= 1
        if not self._requests[service]:
            del self._requests[service]
        self._request_ended.set()

    @property
    def running(self) -> int:
        """Requests and WebSockets in progress."""
        return self._requests.total()

    async def until_unused(self, service: Service | None = None) -> None:
        """Wait until no request uses `service`; with None, until no request is left at all."""
        while self._requests[service] if service is not None else self._requests:
            self._request_ended.clear()
            await self._request_ended.wait()


def _count_tasks() -> int:
    return len(asyncio.all_tasks())


DAEMON = web.AppKey("daemon", Daemon)
SERVICE = web.RequestKey("service", Service)
CLIENT = web.RequestKey("client", ApiClient)
REQUEST_ID = web.RequestKey("request_id", str)
