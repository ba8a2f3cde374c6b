"""The daemon from start to end: what it listens on, new settings while it runs, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from ..address import is_loopback, split_host_port
from ..errors import ConfigError, Llm2wsError
from ..service import Service
from ..settings.fields import Settings
from ..watch.metrics import Metrics
from . import notify
from .access import Access
from .app import create_app
from .certificates import load_certificate, server_tls
from .daemon import Daemon
from .health import Readiness

__all__ = ["running", "serve"]

_log = logging.getLogger(__name__)
_http_log = logging.getLogger(f"{__name__}.http")

IDLE_S = 75.0  # after which a connection is closed that asks nothing, or never finishes its question
TOLD_S = 2.0  # for clients to take what they are told at the end
BACKLOG = 1024  # clients that wait to be accepted
END_S = 10.0  # for all that comes after draining
SAY_AGAIN_S = 60.0  # what lasts is not logged more often


async def serve(
    settings: Settings,
    *,
    shutdown: asyncio.Event,
    reloads: AsyncIterator[Callable[[], Settings]] | None = None,
    started: Callable[[str], None] = lambda url: None,
    sockets: Sequence[socket.socket] = (),
) -> None:
    """Serve until `shutdown`; then finish what runs, within `drain_s`. `started` is told the address; systemd is told all.

    `reloads`: each gives new settings when it is called; one that fails changes nothing. `sockets`: what listens
    already, instead of `server.listen`. Raises ConfigError for settings that cannot be right, SpeechError when the embedded
    endpoint does not start.
    """
    asyncio.get_running_loop().set_exception_handler(_Unforeseen())
    status = _Status()
    telling = asyncio.create_task(notify.feed(status.text))
    try:
        async with running(settings, sockets) as status.daemon:
            started(status.daemon.url)
            notify.tell(READY=1, STATUS=status.text())
            reloading = asyncio.create_task(_reload(status, reloads, sockets)) if reloads is not None else None
            try:
                await shutdown.wait()
            finally:
                if reloading is not None:
                    await _cancelled(reloading)
            stop_s = status.daemon.settings.server.drain_s + END_S  # systemd's own TimeoutStopSec may be less
            notify.tell(STOPPING=1, EXTEND_TIMEOUT_USEC=round(stop_s * 1e6))
    finally:
        await _cancelled(telling)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # raises what it ended with


class _Status:
    """What `systemctl status` shows."""

    def __init__(self) -> None:
        self.daemon: Daemon | None = None
        self.wrong = ""  # with the settings that were to be read again

    def text(self) -> str:
        if self.daemon is None:
            return "starting"
        n, answers = self.daemon.running, len(self.daemon.turns)
        doing = "draining" if self.daemon.draining.is_set() else f"listening on {self.daemon.url}"
        wrong = f"; settings were not reloaded: {self.wrong}" if self.wrong else ""
        return f"{doing}; {n} {'conversation' if n == 1 else 'conversations'}, {answers} speaking{wrong}"


def _one_line(record: logging.LogRecord) -> bool:
    """aiohttp logs bytes that are no HTTP with a traceback and with the bytes: they are a client's fault, and its business."""
    if record.exc_info:
        kind = record.exc_info[0]
        record.msg, record.args, record.exc_info = f"bad request: {kind.__name__ if kind else ''}", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


_http_log.addFilter(_one_line)


class _Unforeseen:
    """What nobody waits for has failed: a line in the log. A traceback may quote what a client wrote."""

    def __init__(self) -> None:
        self._said_at = -math.inf  # that there are no descriptors; asyncio says so for each client that waits, every second

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if not isinstance(exc, OSError) or exc.errno not in (errno.EMFILE, errno.ENFILE):
            _log.error("%s: %s", context.get("message"), type(exc).__name__)
        elif loop.time() - self._said_at > SAY_AGAIN_S:
            self._said_at = loop.time()
            _log.error("new clients wait, for no descriptors are left: raise ulimit -n, or LimitNOFILE of the unit")


@asynccontextmanager
async def running(settings: Settings, sockets: Sequence[socket.socket] = ()) -> AsyncIterator[Daemon]:
    """A daemon that listens, on `sockets` where there are any, until the block is left: then it drains."""
    configured, settings = settings.server.listen, _where(settings, sockets)
    if settings.server.listen != configured:
        _log.warning("server.listen %s is not used: systemd listens on %s", configured, settings.server.listen)
    host, port = split_host_port(settings.server.listen, setting="server.listen")
    async with AsyncExitStack() as stack:
        access = Access(settings.server)
        tls = server_tls(settings.server)
        daemon = Daemon(settings, Service(settings), access, Metrics(), Readiness(), tls)
        await daemon.service.__aenter__()
        stack.push_async_callback(daemon.close)
        await _prewarm(daemon)
        runner = web.AppRunner(
            create_app(daemon),
            access_log=None,
            logger=_http_log,
            handler_cancellation=True,
            shutdown_timeout=TOLD_S,
            keepalive_timeout=IDLE_S,
            handle_signals=False,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        sites: list[web.BaseSite] = [web.SockSite(runner, each, ssl_context=tls, backlog=BACKLOG) for each in sockets]
        sites = sites or [web.TCPSite(runner, host, port, ssl_context=tls, backlog=BACKLOG)]
        try:
            for site in sites:
                await site.start()
        except OSError as exc:
            what = "in use" if exc.errno == errno.EADDRINUSE else (exc.strerror or "cannot be listened on").lower()
            raise ConfigError(f"server.listen {settings.server.listen}: {what}", hint="set another address or port") from None
        daemon.url = _url(host, runner.addresses[0][1] if not sockets else port, tls)
        try:
            yield daemon
        finally:
            for site in sites:
                await site.stop()
            await _drain(daemon)


def _where(settings: Settings, sockets: Sequence[socket.socket]) -> Settings:
    """With the address of the sockets as `server.listen`, of several the one that most can reach: who may ask follows it.

    Raises ConfigError for one that is not TCP: neither clients' addresses nor hosts could be told apart there.
    """
    if not sockets:
        return settings
    if any(each.family not in (socket.AF_INET, socket.AF_INET6) or each.type != socket.SOCK_STREAM for each in sockets):
        raise ConfigError("a socket that systemd passed is not TCP", hint="write ListenStream=HOST:PORT in its unit")
    host, port = min((each.getsockname()[:2] for each in sockets), key=lambda address: is_loopback(address[0]))
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return replace(settings, server=replace(settings.server, listen=listen))


def _url(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


async def _prewarm(daemon: Daemon) -> None:
    """Have a connection before the first client comes. An endpoint that is away is no reason not to start."""
    why = await daemon.readiness.why_not(daemon)
    if why:
        _log.warning("not ready yet: %s", why)


async def _drain(daemon: Daemon) -> None:
    """Let what runs finish; at the deadline, tell it and end it."""
    daemon.draining.set()
    if not daemon.running:
        return
    drain_s = daemon.settings.server.drain_s
    _log.info("conversations in progress: %d; they have %g s to finish", daemon.running, drain_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await daemon.until_unused()
    if daemon.running:
        _log.warning("conversations ended because %g s are over: %d", drain_s, daemon.running)
        daemon.deadline.set()
        await asyncio.gather(*(stop() for stop in daemon.turns), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await daemon.until_unused()


async def _reload(status: _Status, reloads: AsyncIterator[Callable[[], Settings]], sockets: Sequence[socket.socket]) -> None:
    assert status.daemon is not None
    async for load in reloads:
        notify.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        status.wrong = ""
        try:
            await _exchange(status.daemon, _where(load(), sockets))
        except Llm2wsError as exc:
            status.wrong = str(exc)
        except Exception as exc:  # noqa: BLE001 - a bug, whose words may quote a key; the next reload may do
            status.wrong = f"a bug: {type(exc).__name__}"
        if status.wrong:
            _log.error("settings were not reloaded, all stays as it was: %s", status.wrong)
        else:
            _log.warning("settings were reloaded")
        notify.tell(READY=1, STATUS=status.text())


async def _exchange(daemon: Daemon, settings: Settings) -> None:
    """New requests are served by the new settings; those in progress keep what they began with."""
    old = daemon.settings.server
    if settings.server.listen != old.listen:
        _log.warning("server.listen is taken at the next start only")
    if bool(settings.server.tls_cert_file) != bool(old.tls_cert_file):
        raise ConfigError("server.tls_cert_file: TLS cannot begin or end while it runs", hint="restart")
    access = Access(settings.server, daemon.access)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(Service(settings))
        server_tls(settings.server)  # a bad one is not half loaded
        if daemon.tls is not None:
            load_certificate(daemon.tls, settings.server)
        stack.pop_all()  # it is the daemon's now
    daemon.exchange(settings, service, access)
