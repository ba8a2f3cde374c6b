"""Where the parts are put together. It wires, and holds no turn logic."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .audio import AudioFormat
from .connection import client_tls
from .errors import ConfigError
from .pool import Pool
from .speech import DIALECTS
from .speech.dialect import Limits, Setup
from .speech.pacing import Pace
from .text.fragments import Policy
from .turn import Conversation

__all__ = ["LOCAL", "connect", "local_endpoint"]

LOCAL = "local"  # the name of the embedded endpoint

# Whose key is in which variable of the environment.
KEY_VARIABLES = {"deepgram": "DEEPGRAM_API_KEY"}


@asynccontextmanager
async def connect(
    endpoint: str = "",
    *,
    voice: str = "",
    format: AudioFormat = AudioFormat(),  # noqa: A002 - the word of every audio API
    speed: float = 1.0,
    api_key: str | None = None,
    dialect: str = "",
    ca_file: str | None = None,
    policy: Policy | None = None,
    pace: Pace = Pace.NONE,
    limits: Limits | None = None,
    silence_s: float = 10.0,
) -> AsyncIterator[Conversation]:
    """A conversation with a speech endpoint: `async with connect("deepgram") as speech`.

    `endpoint`: the name of a vendor ("deepgram"), "local" for the embedded one, or a ws:// or wss:// URL; "" is Deepgram when
    DEEPGRAM_API_KEY is set, else the embedded one. `api_key`: None takes the vendor's variable of the environment when the
    endpoint is a vendor's own address; a URL of yours is given no key that you do not name. `dialect` is what a URL speaks,
    Deepgram's when "". `ca_file`: a PEM file with a private authority. `pace`: who takes the audio. `silence_s`: how long the
    endpoint may be silent while it owes audio.

    Nothing is opened before the first turn. Raises ConfigError for what cannot be asked for.
    """
    endpoint = endpoint or ("deepgram" if os.environ.get(KEY_VARIABLES["deepgram"]) else LOCAL)
    if endpoint == LOCAL:
        async with local_endpoint() as (url, key):
            setup = Setup(url, voice or "en-us", format, key, speed)
            async with Pool(DIALECTS["deepgram"](setup), limits=limits, silence_s=silence_s) as pool:
                yield Conversation(pool, policy=policy, pace=pace)
        return
    url = endpoint if "://" in endpoint else ""
    name = dialect or ("deepgram" if url else endpoint)
    if name not in DIALECTS:
        known = ", ".join([*sorted(DIALECTS), LOCAL])
        raise ConfigError(f"speech endpoint {name!r} is not known", hint=f"give one of {known}, or a ws:// or wss:// URL")
    if api_key is None and not url:
        api_key = os.environ.get(KEY_VARIABLES.get(name, ""), "")
        if not api_key:
            raise ConfigError(f"no key for {name}", hint=f"set {KEY_VARIABLES[name]}, or use the endpoint {LOCAL!r}")
    tls = client_tls(ca_file) if ca_file is not None else None
    setup = Setup(url, voice, format, api_key or "", speed)
    async with Pool(DIALECTS[name](setup), tls=tls, limits=limits, silence_s=silence_s) as pool:
        yield Conversation(pool, policy=policy, pace=pace)


@asynccontextmanager
async def local_endpoint() -> AsyncIterator[tuple[str, str]]:
    """The embedded endpoint on a free port of this machine, for this process alone: its URL and its key.

    Raises ConfigError when a part of it is not installed.
    """
    from .localspeech.engine import Engine
    from .localspeech.server import SpeechServer

    key = secrets.token_urlsafe(24)
    async with Engine() as engine, SpeechServer(engine, key=key) as server:
        yield server.url, key
