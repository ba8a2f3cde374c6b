"""The opening handshake with a speech endpoint: a WebSocket, or an error that says why there is none and what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidProxy, InvalidStatus, InvalidURI, ProxyError

from .errors import ConfigError, ConnectFailed
from .speech.dialect import Dialect, Request, is_loopback

__all__ = ["client_tls", "open_socket"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # base64 audio in JSON is larger than the library's 1 MiB

# At DEBUG the library writes the handshake, with its Authorization header: its logger here is kept above that.
_wire_log = logging.getLogger("llm2ws.websockets")
_wire_log.setLevel(logging.INFO)


class _Connect(connect):
    """Follows no redirect: the key would go to whatever host the answer names, even in clear text."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def open_socket(dialect: Dialect, *, tls: ssl.SSLContext | None, open_s: float, close_s: float) -> ClientConnection:
    """Open one. `tls`: None for the system's authorities. `open_s`: for TCP, TLS and handshake together. `close_s`: for the
    closing one.

    Raises ConfigError for a request that cannot be made, ConnectFailed for one that is not granted.
    """
    request = dialect.request()
    parts = urlsplit(request.url)
    try:
        async with asyncio.timeout(open_s):
            return await _Connect(
                request.url,
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
    except (ImportError, InvalidProxy):
        pass  # not to be in the error's context: it may hold the proxy's user and password
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError, ValueError) as exc:
        raise _refusal(exc, dialect, request, open_s) from exc
    hint = "look at HTTPS_PROXY: http:// will do, socks5:// needs the package python-socks"
    raise ConfigError("the proxy cannot be used", hint=hint)


def client_tls(ca_file: str | None = None) -> ssl.SSLContext:
    """How an endpoint's certificate is verified: by the system's authorities, and by those in `ca_file` if given.

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


# OpenSSL's verify codes (X509_V_ERR_*), in words.
_CERTIFICATE_FAULTS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate is from an unknown authority",
    20: "its certificate is from an unknown authority",
    62: "its certificate is for another host",
    64: "its certificate is for another host",
}


def _refusal(exc: Exception, dialect: Dialect, request: Request, open_s: float) -> ConnectFailed | ConfigError:
    """The one place where the library's and the system's errors become ours."""
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
        case ssl.SSLError():
            what, hint = "no TLS there", "use ws:// if it is a plain endpoint on this machine"
        case TimeoutError():
            what, hint, retry_s = f"did not answer within {open_s:g} s", "look at the address and the network", 1.0
        case socket.gaierror():
            what, hint = f"host {parts.hostname} is not known", "look at url and the network"
        case ConnectionRefusedError():
            what, hint, retry_s = "nothing listens there", "start the endpoint or look at url", 0.5
        case ConnectionResetError() | BrokenPipeError():
            what, hint, retry_s = "hung up during the handshake", "look at url, and whether it is ws:// or wss://", 0.5
        case ProxyError():
            what, hint, retry_s = "the proxy refused", "look at HTTPS_PROXY", None
        case InvalidMessage() | InvalidHandshake() | EOFError():
            what, hint, retry_s = "did not answer as a WebSocket server", "look at url", 0.5
        case OSError():
            what, hint, retry_s = exc.strerror or type(exc).__name__, "look at the address and the network", 0.5
        case _:
            return ConfigError(f"{where}: not an address that can be opened", hint="look at url")
    return ConnectFailed(f"{where}: {what}", hint=hint, status=status, retry_s=retry_s)
