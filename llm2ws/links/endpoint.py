"""A speech endpoint as it is asked for: where it is, how it is spoken to, and how much of it may be used at once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from ..speech.dialect import Dialect, Limits

__all__ = ["Endpoint"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to speak to, and how. Equal ones share connections.

    `name` is what the limits on connections and turns go by: endpoints with different voices of one account share them.
    `connections`, `turns`: how many may be at once under that name, None for any number. `limits` and `tls`: None for the
    dialect's limits and the system's authorities. `silence_s`: how long it may be silent while it owes audio.
    """

    dialect: Dialect
    name: str = ""
    connections: int | None = None
    turns: int | None = None
    limits: Limits | None = None
    tls: ssl.SSLContext | None = None
    silence_s: float = 10.0
