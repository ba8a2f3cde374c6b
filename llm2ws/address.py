"""Addresses and keys: which host is this machine, HOST:PORT, where a key may be sent, what a key may hold."""

from __future__ import annotations

import ipaddress
import re

from .errors import ConfigError

__all__ = ["is_key", "is_loopback", "may_carry_key", "split_host_port"]


def is_loopback(host: str | None) -> bool:
    """Return whether a host, as written in a URL, is this machine and cannot be another.

    `host`: a name or an IP address without brackets; None or "" where a URL has none.
    """
    if not host:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3


def may_carry_key(scheme: str, host: str | None) -> bool:
    """Return whether a key may be sent to a URL: it must not cross a network in clear text.

    `scheme` is that of the URL, in lower case; `host` is as for `is_loopback`.
    """
    return scheme in ("https", "wss") or is_loopback(host)


def is_key(text: str) -> bool:
    """Return whether a text can be a key: visible ASCII characters alone, which every HTTP header carries as they are."""
    return re.fullmatch("[!-~]+", text) is not None


def split_host_port(address: str, *, setting: str) -> tuple[str, int]:
    """Split HOST:PORT, such as `127.0.0.1:8765` or `[::1]:8765`, into the host without brackets and the port.

    Raises ConfigError, which names `setting`, for anything else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"{setting} {address!r}: not an address", hint="write HOST:PORT, such as 127.0.0.1:8765")
    return host.strip("[]"), int(port)
