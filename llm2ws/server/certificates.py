"""The daemon's own TLS."""

from __future__ import annotations

import ssl

from ..errors import ConfigError
from ..settings.fields import Server

__all__ = ["load_certificate", "server_tls"]


def server_tls(server: Server) -> ssl.SSLContext | None:
    """Return the TLS context of the settings, None without a certificate. Raises ConfigError for one that cannot be used."""
    if not server.tls_cert_file:
        if server.tls_key_file:
            raise ConfigError("server.tls_key_file: a key without a certificate", hint="set tls_cert_file too, or neither")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, server)
    return context


def load_certificate(context: ssl.SSLContext, server: Server) -> None:
    """Use the settings' certificate for new handshakes. Raises ConfigError when its files cannot be read or do not fit."""
    try:
        context.load_cert_chain(server.tls_cert_file, server.tls_key_file or None, password=lambda: "")
    except (OSError, ssl.SSLError) as exc:
        why = (exc.strerror or "cannot be read") if not isinstance(exc, ssl.SSLError) else "no PEM certificate with its key"
        raise ConfigError(
            f"server.tls_cert_file {server.tls_cert_file}: {why}", hint="look at it and at tls_key_file"
        ) from None
