"""Speech endpoints over WebSockets: the opening handshake, and the link that it gives.

The only module that knows the library `websockets`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import HeadersLike
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.protocol import State

from ..address import is_loopback
from ..errors import ConfigError, ConnectFailed
from ..speech.dialect import Dialect, Request
from .link import NO_CLOSE_FRAME, LinkClosed

__all__ = ["WebSocketLink", "client_tls", "open_websocket"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # base64 audio in JSON is larger than the library's 1 MiB

# At DEBUG the library writes the handshake, with its Authorization header: its logger here is kept above that.
_wire_log = logging.getLogger("llm2ws.websockets")
_wire_log.setLevel(logging.INFO)


class _Connection(ClientConnection):
    """Reports what ended a handshake, whenever that came.

    If the answer or the end comes before the request is sent, the library raises ConnectionClosedError or fails an assertion,
    and the reason is lost. With uvloop this is the usual order.
    """

    async def handshake(self, additional_headers: HeadersLike | None = None, user_agent_header: str | None = None) -> None:
        """Perform the opening handshake. Raises InvalidHandshake for an answer, OSError for a connection that was lost."""
        try:
            if self.protocol.handshake_exc is None:
                await super().handshake(additional_headers, user_agent_header)
                return
            ended = self.protocol.handshake_exc
        except (ConnectionClosed, InvalidMessage) as exc:
            ended = self.protocol.handshake_exc or exc
        if isinstance(ended.__cause__, EOFError) and isinstance(self.connection_exc, OSError):
            raise self.connection_exc  # says more than that no answer came: a reset, or a TLS alert
        raise ended

    def start_keepalive(self) -> None:
        """Start the pings, unless the connection was lost with the answer: nobody would stop them."""
        if not self.connection_lost_waiter.done():
            super().start_keepalive()


class _Connect(connect):
    """Follows no redirect: the key would go to whatever host the answer names, even in clear text."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class WebSocketLink:
    """A `Link` over an open WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @property
    def writable(self) -> bool:
        """Whether `send_now` may be called."""
        return self._socket.state is State.OPEN and not self._socket.transport.get_write_buffer_size()

    @property
    def latency_s(self) -> float:
        """Seconds from the last ping to its pong; NaN before the first."""
        return self._socket.latency or math.nan

    def send_now(self, messages: Iterable[str | bytes]) -> None:
        """Send messages without the round of the event loop that the library's `send` takes: a fifth of a token's time."""
        for message in messages:
            if isinstance(message, str):
                self._socket.protocol.send_text(message.encode())
            else:
                self._socket.protocol.send_binary(message)
        self._socket.send_data()

    async def send(self, message: str | bytes) -> None:
        """Send a message when there is room for it."""
        try:
            await self._socket.send(message)
        except ConnectionClosed as exc:
            raise _closed(exc) from None

    async def recv(self) -> str | bytes:
        """Return the next message."""
        try:
            return await self._socket.recv()
        except ConnectionClosed as exc:
            raise _closed(exc) from None

    async def ping(self) -> None:
        """Send a ping and wait for its pong."""
        try:
            await (await self._socket.ping())
        except ConnectionClosed as exc:
            raise _closed(exc) from None

    async def close(self) -> None:
        """Perform the closing handshake."""
        await self._socket.close()

    def abort(self) -> None:
        """Close the TCP connection without a closing handshake."""
        self._socket.transport.abort()


def _closed(exc: ConnectionClosed) -> LinkClosed:
    """Return the project's word for the library's."""
    if exc.rcvd is not None:
        return LinkClosed(exc.rcvd.code, exc.rcvd.reason)
    # The library closes with 1011 when a ping has no answer.
    return LinkClosed(NO_CLOSE_FRAME, deaf=exc.sent is not None and exc.sent.code == 1011)


async def open_websocket(dialect: Dialect, *, tls: ssl.SSLContext | None, open_s: float, close_s: float) -> WebSocketLink:
    """Open a WebSocket. The arguments and errors are those of `opening.open_link`."""
    request = dialect.request()
    parts = urlsplit(request.url)
    refusal: ConnectFailed | ConfigError
    try:
        async with asyncio.timeout(open_s):
            socket = await _Connect(
                request.url,
                create_connection=_Connection,
                additional_headers=request.headers,
                compression=None,  # audio does not shrink
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=None,
                close_timeout=close_s,
                ping_interval=dialect.traits.ping_s,
                ping_timeout=dialect.traits.ping_s,
                proxy=None if is_loopback(parts.hostname) else True,
                logger=_wire_log,
                ssl=(tls or client_tls()) if parts.scheme == "wss" else None,
            )
            return WebSocketLink(socket)
    except (ImportError, InvalidProxy):
        hint = "look at HTTPS_PROXY: http:// will do, socks5:// needs the package python-socks"
        refusal = ConfigError("the proxy cannot be used", hint=hint)
    except Exception as exc:  # noqa: BLE001 - whatever a peer makes the libraries raise, its turn goes to another endpoint
        refusal = _refusal(exc, dialect, request, open_s)
    # Raised here, so that the library's error is not its context: that may quote the proxy's password, or an endpoint that
    # answers with our own headers.
    raise refusal


def client_tls(ca_file: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies an endpoint's certificate by the system's authorities, and by those in `ca_file` if given.

    Raises ConfigError when the file cannot be read.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as exc:
            why = "not a PEM certificate" if isinstance(exc, ssl.SSLError) else exc.strerror
            raise ConfigError(f"CA file {ca_file}: {why}", hint="give a PEM file with the authority's certificate") from None
    return context


# What OpenSSL's verification codes (X509_V_ERR_*) mean.
_CERTIFICATE_FAULTS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate is from an unknown authority",
    20: "its certificate is from an unknown authority",
    62: "its certificate is for another host",
    64: "its certificate is for another host",
}


# What proxies and balancers do while nothing is behind them; also a TLS server that is asked without TLS.
_HUNG_UP = ("hung up during the handshake", "look at url, whether it is ws:// or wss://, and at what should be behind it", 0.5)


def _refusal(exc: Exception, dialect: Dialect, request: Request, open_s: float) -> ConnectFailed | ConfigError:
    """Return the project's error for whatever ended a handshake. The only place where that is decided."""
    parts = urlsplit(request.url)
    where = f"speech endpoint {parts.scheme}://{parts.netloc}{parts.path}"
    status: int | None = None
    retry_s: float | None = None
    match exc:
        case InvalidStatus(response=response):
            failed = dialect.refused(response.status_code, dict(response.headers.raw_items()), bytes(response.body or b""))
            what, hint, status, retry_s = failed.what, failed.hint, failed.status, failed.retry_s
        case ssl.SSLCertVerificationError(verify_code=code):
            what = _CERTIFICATE_FAULTS.get(code, "its certificate cannot be trusted")
            hint = "name the authority with ca_file" if code in (18, 19, 20) else "look at the address and at its certificate"
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            what, hint, retry_s = _HUNG_UP
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            what = f"refused TLS ({reason.lower().replace('_', ' ')})"
            hint = "look at url, at the endpoint's TLS versions, and whether it demands a client certificate"
        case ssl.SSLError():
            what, hint = "no TLS there", "use ws:// if it is a plain endpoint on this machine"
        case TimeoutError():
            what, hint, retry_s = f"did not answer within {open_s:g} s", "look at the address and the network", 1.0
        case socket.gaierror():
            what, hint = f"host {parts.hostname} is not known", "look at url and the network"
        case ConnectionRefusedError():
            what, hint, retry_s = "nothing listens there", "start the endpoint or look at url", 0.5
        case ProxyError():
            what, hint, retry_s = "the proxy refused", "look at HTTPS_PROXY", None
        case ConnectionError() | EOFError() | InvalidMessage(__cause__=EOFError()) | ConnectionClosed():
            what, hint, retry_s = _HUNG_UP
        case InvalidHandshake():
            what, hint, retry_s = "did not answer as a WebSocket server", "look at url, and whether it is ws:// or wss://", 0.5
        case OSError(errno=code):  # asyncio gives no code if several addresses failed in several ways
            what, hint, retry_s = os.strerror(code) if code else "cannot be reached", "look at the address and the network", 0.5
        case ValueError() | InvalidURI():
            return ConfigError(f"{where}: not an address that can be opened", hint="look at url")
        case _:
            what, hint, retry_s = f"could not be opened ({type(exc).__name__})", "look at url and the endpoint", 0.5
    return ConnectFailed(f"{where}: {what}", hint=hint, status=status, retry_s=retry_s)
