"""Where the parts are put together. It wires, and holds no turn logic."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from .audio import AudioFormat, Encoding
from .config import VENDORS, Llm, Secret, Settings, Speech, Text, read_key
from .errors import ConfigError
from .sources.aside import Aside
from .sources.text import echo
from .speech import DIALECTS
from .speech.dialect import Limits, Setup
from .speech.pacing import Pace
from .text.fragments import Policy

if TYPE_CHECKING:  # what takes long to load is loaded while the embedded endpoint's process starts
    from .pool import Endpoint
    from .text.cleaner import Cleaner
    from .text.fragmenter import Fragmenter
    from .turn import Conversation

__all__ = [
    "KINDS",
    "LOCAL",
    "answer",
    "audio_format",
    "choose_llm",
    "choose_speech",
    "cleaner",
    "connect",
    "fragmenter",
    "local_endpoint",
    "open_speech",
]

LOCAL = "local"  # the name of the embedded endpoint
_LOCAL_LIMITS = Limits(chars_per_speak=2_000)  # it counts nothing a minute

# What can answer a prompt: a line for each kind.
KINDS: dict[str, Callable[[Llm, str], AsyncIterator[str | Aside]]] = {
    "echo": lambda llm, prompt: echo(prompt, tokens_per_s=llm.tokens_per_s),
}


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
    endpoint may be silent while it owes audio. Settings files are not read.

    Nothing is opened before the first turn. Raises ConfigError for what cannot be asked for.
    """
    keys = {path[1]: Speech(api_key=Secret(os.environ[name])) for name, path in VENDORS.items() if os.environ.get(name)}
    name, entry = choose_speech(Settings(speech=keys), endpoint)
    entry = replace(
        entry,
        dialect=dialect or entry.dialect,
        voice=voice,
        speed=speed,
        encoding=format.encoding.value,
        sample_rate_hz=format.sample_rate_hz,
        api_key=entry.api_key if api_key is None else Secret(api_key),
        ca_file=ca_file or "",
        silence_s=silence_s,
    )
    settings = Settings(text=Text(policy=policy.value if policy else ""))
    async with open_speech(settings, name, entry, pace=pace, limits=limits) as conversation:
        yield conversation


def choose_speech(settings: Settings, wanted: str = "") -> tuple[str, Speech]:
    """The endpoint that is meant, and its name. `wanted`: a name in the settings, a dialect, "local", a URL, "" for the usual.

    Its key is one of its own, or its vendor's where it has no address of its own. Raises ConfigError when it is not known.
    """
    if "://" in wanted:
        return wanted.partition("://")[2].partition("/")[0], Speech(url=wanted, dialect="deepgram")
    name = wanted or settings.default_speech or next(iter(settings.speech), LOCAL)
    entry = settings.speech.get(name)
    if entry is None and name not in (*DIALECTS, LOCAL):
        known = ", ".join(dict.fromkeys([*settings.speech, *DIALECTS, LOCAL]))
        raise ConfigError(f"speech endpoint {name!r} is not known", hint=f"give one of {known}, or a ws:// or wss:// URL")
    entry = entry or Speech()
    dialect = entry.dialect or (name if name in (*DIALECTS, LOCAL) else "deepgram")
    if dialect not in (*DIALECTS, LOCAL):
        known = ", ".join([*DIALECTS, LOCAL])
        raise ConfigError(f"speech.{name}.dialect: {dialect!r} is not known", hint=f"give one of {known}")
    vendor = settings.speech.get(dialect)
    if vendor and not (entry.url or entry.api_key or entry.api_key_file):
        entry = replace(entry, api_key=vendor.api_key, api_key_file=vendor.api_key_file)
    return name, replace(entry, dialect=dialect)


def choose_llm(settings: Settings, wanted: str = "") -> tuple[str, Llm]:
    """What answers, and its name. `wanted`: a name in the settings, a kind, or "" for the default.

    Raises ConfigError when it is not known.
    """
    name = wanted or settings.default_llm or next(iter(settings.llm), "echo")
    llm = settings.llm.get(name, Llm())
    kind = llm.kind or name
    if kind not in KINDS:
        known = ", ".join(dict.fromkeys([*settings.llm, *KINDS]))
        raise ConfigError(f"LLM {name!r} is not known", hint=f"give one of {known}")
    return name, replace(llm, kind=kind)


def answer(llm: Llm, prompt: str) -> AsyncIterator[str | Aside]:
    """A source: the answer of an LLM that `choose_llm` gave."""
    return KINDS[llm.kind](llm, prompt)


def audio_format(entry: Speech) -> AudioFormat:
    encoding = Encoding(entry.encoding)
    return AudioFormat(encoding, entry.sample_rate_hz or (24_000 if encoding is Encoding.LINEAR16 else 8_000))


def cleaner(text: Text) -> Cleaner:
    """One for a turn, as the settings want it."""
    from .text.cleaner import Cleaner

    return Cleaner(code_phrase=text.code_phrase)


def fragmenter(text: Text, policy: Policy) -> Fragmenter:
    """One for a turn, as the settings want it."""
    from .text.fragmenter import Fragmenter

    return Fragmenter(
        policy,
        language=text.language or None,
        max_chars=text.max_chars,
        first_min_chars=text.first_min_chars,
        first_max_chars=text.first_max_chars,
    )


@asynccontextmanager
async def open_speech(
    settings: Settings,
    name: str,
    entry: Speech,
    *,
    pace: Pace = Pace.NONE,
    limits: Limits | None = None,
    slow_consumer_s: float = 60.0,
) -> AsyncIterator[Conversation]:
    """A conversation with an endpoint that `choose_speech` gave, and with those that take over when it fails.

    `slow_consumer_s`: inf for whoever may take all their time. Raises ConfigError for what cannot be asked for.
    """
    chain = [(name, entry), *(choose_speech(settings, other) for other in entry.failover)]
    text = settings.text
    async with AsyncExitStack() as stack:
        endpoints = [
            # One format for all, so that each can go on where another stopped.
            await _endpoint(stack, one, replace(of, encoding=entry.encoding, sample_rate_hz=entry.sample_rate_hz), limits)
            for one, of in chain
        ]
        from .pool import Pool  # after the embedded endpoint, which loads them while it starts
        from .turn import Conversation

        yield Conversation(
            await stack.enter_async_context(Pool(connect_s=entry.connect_s)),
            endpoints,
            policy=Policy(text.policy) if text.policy else None,
            pace=pace,
            cleaner=partial(cleaner, text),
            fragmenter=partial(fragmenter, text),
            slow_consumer_s=slow_consumer_s,
        )


async def _endpoint(stack: AsyncExitStack, name: str, entry: Speech, limits: Limits | None) -> Endpoint:
    local = entry.dialect == LOCAL
    url, key, voice = entry.url, _key(entry), entry.voice
    if local:
        url, key = await stack.enter_async_context(local_endpoint())
        voice = voice or "en-us"
    elif not url and not key:
        variable = next((variable for variable, path in VENDORS.items() if path[1] == entry.dialect), "api_key_file")
        raise ConfigError(f"no key for {name}", hint=f"set {variable}, or use the endpoint {LOCAL!r}")
    from .connection import client_tls
    from .pool import Endpoint

    dialect = DIALECTS["deepgram" if local else entry.dialect](Setup(url, voice, audio_format(entry), key, entry.speed))
    given = {field: value for field, value in asdict(entry.limits).items() if value is not None}
    return Endpoint(
        dialect,
        name,
        connections=entry.connections,
        limits=limits or dataclasses.replace(_LOCAL_LIMITS if local else dialect.limits, **given),
        tls=client_tls(entry.ca_file) if entry.ca_file else None,
        silence_s=entry.silence_s,
    )


def _key(entry: Speech) -> str:
    return read_key(entry.api_key_file) if entry.api_key_file and not entry.api_key else entry.api_key.reveal()


@asynccontextmanager
async def local_endpoint() -> AsyncIterator[tuple[str, str]]:
    """The embedded endpoint on a free port of this machine, for this process alone: its URL and its key.

    Raises ConfigError when a part of it is not installed.
    """
    from .localspeech.engine import Engine

    async with AsyncExitStack() as stack:
        # While its process starts there is time to load what the turn will need.
        loading = asyncio.create_task(asyncio.to_thread(import_module, ".turn", __package__))
        try:
            engine = await stack.enter_async_context(Engine())
        finally:
            await loading
        from .localspeech.server import SpeechServer

        key = secrets.token_urlsafe(24)
        server = await stack.enter_async_context(SpeechServer(engine, key=key))
        yield server.url, key
