"""The daemon from start to end: what it listens on, new settings while it runs, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from ..errors import ConfigError, SpeechError
from ..metrics import Metrics
from ..service import Service
from ..settings import Server, Settings
from .access import Access, split_listen
from .app import create_app
from .health import Readiness
from .state import Daemon

__all__ = ["running", "serve"]

_log = logging.getLogger(__name__)
_http_log = logging.getLogger(f"{__name__}.http")

IDLE_S = 75.0  # after which a connection is closed that asks nothing, or never finishes its question
TOLD_S = 2.0  # for clients to take what they are told at the end


async def serve(
    settings: Settings,
    *,
    shutdown: asyncio.Event,
    reloads: AsyncIterator[Callable[[], Settings]] | None = None,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until `shutdown`; then finish what runs, within `drain_s`. `started` is told the address.

    `reloads`: each gives new settings when it is called; what raises ConfigError changes nothing. Raises ConfigError for
    settings that cannot be right, SpeechError when the embedded endpoint does not start.
    """
    async with running(settings) as daemon:
        started(daemon.url)
        reloading = asyncio.create_task(_reload(daemon, reloads)) if reloads is not None else None
        try:
            await shutdown.wait()
        finally:
            if reloading is not None:
                reloading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reloading


def _one_line(record: logging.LogRecord) -> bool:
    """aiohttp logs bytes that are no HTTP with a traceback and with the bytes: they are a client's fault, and its business."""
    if record.exc_info:
        kind = record.exc_info[0]
        record.msg, record.args, record.exc_info = f"bad request: {kind.__name__ if kind else ''}", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


_http_log.addFilter(_one_line)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    """A daemon that listens, until the block is left: then it drains."""
    host, port = split_listen(settings.server.listen)
    async with AsyncExitStack() as stack:
        access = Access(settings.server)
        tls = _tls(settings.server)
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
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024)
        try:
            await site.start()
        except OSError as exc:
            what = "in use" if exc.errno == errno.EADDRINUSE else (exc.strerror or "cannot be listened on").lower()
            raise ConfigError(f"server.listen {settings.server.listen}: {what}", hint="set another address or port") from None
        daemon.url = _url(host, runner.addresses[0][1], tls)
        try:
            yield daemon
        finally:
            await site.stop()
            await _drain(daemon)


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
    _log.info("%d conversations are in progress: they have %g s to finish", daemon.running, drain_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await daemon.until_unused()
    if daemon.running:
        _log.warning("%d conversations are ended: %g s are over", daemon.running, drain_s)
        daemon.deadline.set()
        await asyncio.gather(*(stop() for stop in daemon.turns), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await daemon.until_unused()


async def _reload(daemon: Daemon, reloads: AsyncIterator[Callable[[], Settings]]) -> None:
    async for load in reloads:
        try:
            await _exchange(daemon, load())
        except (ConfigError, SpeechError) as exc:
            _log.error("settings were not reloaded, all stays as it was: %s", exc)
        else:
            _log.warning("settings were reloaded")


async def _exchange(daemon: Daemon, settings: Settings) -> None:
    """New requests are served by the new settings; those in progress keep what they began with."""
    old = daemon.settings.server
    if settings.server.listen != old.listen:
        _log.warning("server.listen is taken at the next start only")
    if bool(settings.server.tls_cert_file) != bool(old.tls_cert_file):
        raise ConfigError("server.tls_cert_file: TLS cannot begin or end while it runs", hint="restart")
    access = Access(settings.server, daemon.access)
    if daemon.tls is not None:
        _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings.server)  # a bad one is not half loaded
    service = Service(settings)
    await service.__aenter__()
    if daemon.tls is not None:
        _load_certificate(daemon.tls, settings.server)
    daemon.exchange(settings, service, access)


def _tls(server: Server) -> ssl.SSLContext | None:
    if not server.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, server)
    return context


def _load_certificate(context: ssl.SSLContext, server: Server) -> None:
    """New handshakes are answered with it. Raises ConfigError when the files cannot be read, or do not fit."""
    try:
        context.load_cert_chain(server.tls_cert_file, server.tls_key_file or None, password=lambda: "")
    except (OSError, ssl.SSLError) as exc:
        why = (exc.strerror or "cannot be read") if not isinstance(exc, ssl.SSLError) else "no PEM certificate with its key"
        raise ConfigError(
            f"server.tls_cert_file {server.tls_cert_file}: {why}", hint="look at it and at tls_key_file"
        ) from None
