"""Runs the daemon: listens, serves, replaces settings while it serves, and ends without losing an answer."""

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

__all__ = ["running", "serve"]

_log = logging.getLogger(__name__)
_http_log = logging.getLogger(f"{__name__}.http")

IDLE_S = 75.0  # When a connection without a complete request is closed.
GOODBYE_S = 2.0  # How long clients have to read the last message.
BACKLOG = 1024  # Connections that wait to be accepted.
END_S = 10.0  # How long everything after draining may take.
LOG_AGAIN_S = 60.0  # How often a fault that lasts is logged.


async def serve(
    settings: Settings,
    *,
    shutdown: asyncio.Event,
    reloads: AsyncIterator[Callable[[], Settings]] | None = None,
    started: Callable[[str], None] = lambda url: None,
    sockets: Sequence[socket.socket] = (),
) -> None:
    """Serve until `shutdown` is set, then finish the answers in progress within `drain_s`. systemd is notified of each state.

    `reloads`: yields functions that return new settings; one that raises changes nothing. `started`: called with the URL when
    the daemon listens. `sockets`: listening sockets to serve instead of `server.listen`. Raises ConfigError for settings that
    cannot be right, SpeechError when the embedded endpoint does not start.
    """
    asyncio.get_running_loop().set_exception_handler(_ExceptionHandler())
    status = _ServiceStatus()
    notifying = asyncio.create_task(notify.feed(status.text))
    try:
        async with running(settings, sockets) as status.daemon:
            started(status.daemon.url)
            notify.tell(READY=1, STATUS=status.text())
            reloading = asyncio.create_task(_reload(status, status.daemon, reloads, sockets)) if reloads is not None else None
            try:
                await shutdown.wait()
            finally:
                if reloading is not None:
                    await _cancel(reloading)
            stop_s = status.daemon.settings.server.drain_s + END_S  # systemd's own TimeoutStopSec may be less
            notify.tell(STOPPING=1, EXTEND_TIMEOUT_USEC=round(stop_s * 1e6))
    finally:
        await _cancel(notifying)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # Raises the error that the task ended with.


class _ServiceStatus:
    """The line that `systemctl status` shows."""

    def __init__(self) -> None:
        self.daemon: Daemon | None = None
        self.reload_error = ""  # Why the last reload failed.

    def text(self) -> str:
        if self.daemon is None:
            return "starting"
        n, answers = self.daemon.running, len(self.daemon.turns)
        doing = "draining" if self.daemon.draining.is_set() else f"listening on {self.daemon.url}"
        wrong = f"; settings were not reloaded: {self.reload_error}" if self.reload_error else ""
        return f"{doing}; {n} {'conversation' if n == 1 else 'conversations'}, {answers} speaking{wrong}"


def _one_line(record: logging.LogRecord) -> bool:
    """Shorten aiohttp's log record of a request that is no HTTP to one line.

    aiohttp logs it as an error, with a traceback and the request's bytes, which are a client's and may hold a secret.
    """
    if record.exc_info:
        kind = record.exc_info[0]
        record.msg, record.args, record.exc_info = f"bad request: {kind.__name__ if kind else ''}", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


_http_log.addFilter(_one_line)


class _ExceptionHandler:
    """Logs an exception that no task handled as one line: a traceback may quote what a client wrote."""

    def __init__(self) -> None:
        self._logged_at = -math.inf  # When it was logged that no descriptors are left, which asyncio reports every second.

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if not isinstance(exc, OSError) or exc.errno not in (errno.EMFILE, errno.ENFILE):
            _log.error("%s: %s", context.get("message"), type(exc).__name__)
        elif loop.time() - self._logged_at > LOG_AGAIN_S:
            self._logged_at = loop.time()
            _log.error("new clients wait, for no descriptors are left: raise ulimit -n, or LimitNOFILE of the unit")


@asynccontextmanager
async def running(settings: Settings, sockets: Sequence[socket.socket] = ()) -> AsyncIterator[Daemon]:
    """Run a daemon until the block is left, then drain it. It listens on `sockets` where there are any."""
    configured, settings = settings.server.listen, _listening_on(settings, sockets)
    if settings.server.listen != configured:
        _log.warning("server.listen %s is not used: systemd listens on %s", configured, settings.server.listen)
    host, port = split_host_port(settings.server.listen, setting="server.listen")
    async with AsyncExitStack() as stack:
        access = Access(settings.server)
        tls = server_tls(settings.server)
        daemon = Daemon(settings, Service(settings), access, Metrics(), tls)
        await daemon.service.__aenter__()
        stack.push_async_callback(daemon.close)
        await _prewarm(daemon)
        runner = web.AppRunner(
            create_app(daemon),
            access_log=None,
            logger=_http_log,
            handler_cancellation=True,
            shutdown_timeout=GOODBYE_S,
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


def _listening_on(settings: Settings, sockets: Sequence[socket.socket]) -> Settings:
    """Return the settings with the address of the sockets as `server.listen`, by which access is judged.

    Of several sockets it is one that other machines can reach, where there is one. Raises ConfigError for a socket that is not
    TCP: there clients have no address, and no Host can be checked.
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
    """Open a connection to the speech endpoint before the first client comes. The daemon starts without it, too."""
    why_not = await daemon.readiness.why_not(daemon.service, daemon.settings.server.ready_s)
    if why_not:
        _log.warning("not ready yet: %s", why_not)


async def _drain(daemon: Daemon) -> None:
    """Let the conversations in progress finish; end them, and tell their clients, after `drain_s`."""
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
            async with asyncio.timeout(GOODBYE_S):
                await daemon.until_unused()


async def _reload(
    status: _ServiceStatus,
    daemon: Daemon,
    reloads: AsyncIterator[Callable[[], Settings]],
    sockets: Sequence[socket.socket],
) -> None:
    async for load in reloads:
        notify.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        status.reload_error = ""
        try:
            await _exchange(daemon, _listening_on(load(), sockets))
        except Llm2wsError as exc:
            status.reload_error = str(exc)
        except Exception as exc:  # noqa: BLE001 - a bug, whose message may quote a key; the next reload may succeed
            status.reload_error = f"a bug: {type(exc).__name__}"
        if status.reload_error:
            _log.error("settings were not reloaded, all stays as it was: %s", status.reload_error)
        else:
            _log.warning("settings were reloaded")
        notify.tell(READY=1, STATUS=status.text())


async def _exchange(daemon: Daemon, settings: Settings) -> None:
    """Serve new requests with the new settings; those in progress keep what they began with."""
    old = daemon.settings.server
    if settings.server.listen != old.listen:
        _log.warning("server.listen is taken at the next start only")
    if bool(settings.server.tls_cert_file) != bool(old.tls_cert_file):
        raise ConfigError("server.tls_cert_file: TLS cannot begin or end while it runs", hint="restart")
    access = Access(settings.server, daemon.access)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(Service(settings, quota=daemon.service.quota))
        server_tls(settings.server)  # Raises before a bad certificate is half loaded.
        if daemon.tls is not None:
            load_certificate(daemon.tls, settings.server)
        stack.pop_all()  # The service is the daemon's now.
    daemon.exchange(settings, service, access)
