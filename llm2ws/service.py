"""The service: connections, LLM clients and settings put together for conversations. It holds no logic of turns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Self

from msgspec import convert
from msgspec.structs import asdict, replace

from .audio import AudioFormat
from .errors import ConfigError, LocalProtocolError, UnknownName
from .links.quota import LocalQuota, Quota
from .settings.fields import Llm, Secret, Settings, Speech, TextSettings
from .settings.layers import check_fields
from .settings.llms import KINDS, LlmClient, choose_llm, llm_client, model_settings
from .settings.loading import vendor_variables
from .settings.speech import (
    LOCAL,
    PLAIN_NAME,
    audio_format,
    check_shares,
    choose_speech,
    known_dialect,
    shown,
    speech_chain,
    speech_dialects,
    speech_keys,
    wanted_speech,
)
from .settings.text import TextOptions, cleaner, fragmenter
from .sources.aside import Aside
from .sources.prompt import Prompt
from .speech.dialect import Dialect, Limits, Setup
from .speech.dialects import DIALECTS
from .speech.utterance.pacing import Pace
from .text.fragments import Policy

if TYPE_CHECKING:  # what takes long to load is loaded while the embedded endpoint's process starts
    import ssl
    from types import TracebackType

    from .links.pool import Endpoint, Pool
    from .sources.relay import Relay
    from .turn import Conversation

__all__ = ["Service", "connect", "open_speech"]

_OPENAI_VOICES = DIALECTS["deepgram"].openai_voices  # the one that has a voice for each of OpenAI's names
_LOCAL_LIMITS = Limits(chars_per_speak=2_000)  # of the embedded endpoint, which counts nothing a minute


@asynccontextmanager
async def connect(
    endpoint: str = "",
    *,
    voice: str = "",
    model: str = "",
    language: str = "",
    format: AudioFormat = AudioFormat(),  # noqa: A002 - the word of every audio API
    speed: float = 1.0,
    api_key: str | None = None,
    dialect: str = "",
    ca_file: str | None = None,
    failover: Sequence[str] = (),
    policy: Policy | None = None,
    text: TextOptions | None = None,
    pace: Pace = Pace.NONE,
    limits: Limits | None = None,
    silence_s: float = 10.0,
) -> AsyncIterator[Conversation]:
    """Open a conversation with a speech endpoint, for `async with`. Settings files are not read.

    `endpoint`: a dialect, such as "deepgram" or "elevenlabs"; a .toml file that describes one; "local" for the embedded one;
    a ws:// or wss:// URL; or "" for the first vendor whose key is in the environment, else the embedded endpoint.
    `voice`, `model`, `language`: as the vendor writes them, "" for its usual ones.
    `speed`: a multiple of the voice's usual speed.
    `api_key`: None for the vendor's variable of the environment. A URL of yours is given no key that you do not name.
    `dialect`: what a URL speaks, "" for Deepgram's.
    `ca_file`: a PEM file with a private certificate authority.
    `failover`: the endpoints that take over when this one fails, as dialects, .toml files or "local".
    `policy`: how far text is cut, None for what the endpoint wants. `text`: how text is made fit to be spoken.
    `pace`: who takes the audio. `limits`: what the endpoint allows, None for the vendor's own limits.
    `silence_s`: how long the endpoint may be silent while it owes audio.

    Nothing is opened before the first turn. Raises ConfigError for an argument that cannot be right.
    """
    texts = {"url": endpoint or "", "dialect": dialect, "voice": voice, "api_key": api_key or "", "ca_file": ca_file or ""}
    texts |= {"model": model, "language": language}
    check_fields("connect()", ("speech", ""), {**texts, "speed": speed, "silence_s": silence_s, "failover": failover})
    _check_types(format=(format, AudioFormat), pace=(pace, Pace))
    _check_types(policy=(policy or Policy.TOKEN, Policy), limits=(limits or Limits(), Limits), text=(text or {}, dict))
    check_fields("connect(): text", ("text",), text or {})
    keys = {
        path[1]: Speech(api_key=Secret(os.environ[name]))
        for name, path in vendor_variables().items()
        if path[0] == "speech" and os.environ.get(name)
    }
    settings = Settings(speech=keys, text=convert({**(text or {}), "policy": policy.value if policy else ""}, TextSettings))
    name, entry = choose_speech(settings, endpoint)
    for other in failover:
        choose_speech(settings, other, of="connect(): failover")
    entry = replace(
        entry,
        dialect=known_dialect(dialect) if dialect else entry.dialect,
        voice=voice,
        model=model,
        language=language,
        speed=speed,
        encoding=format.encoding.value,
        sample_rate_hz=format.sample_rate_hz,
        api_key=entry.api_key if api_key is None else Secret(api_key),
        ca_file=ca_file or "",
        failover=tuple(failover),
        silence_s=silence_s,
    )
    async with open_speech(settings, name, entry, pace=pace, limits=limits) as conversation:
        yield conversation


def _check_types(**arguments: tuple[object, type]) -> None:
    """Check that each argument of `connect` is of its class. Raises ConfigError."""
    for argument, (value, kind) in arguments.items():
        if not isinstance(value, kind):
            what = f"connect(): {argument}: a {type(value).__name__} is no {kind.__name__}"
            raise ConfigError(what, hint=f"give {'a dict' if kind is dict else f'an llm2ws.{kind.__name__}'}")


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
    """Open a conversation with an endpoint that `choose_speech` returned, and with those that take over when it fails.

    `slow_consumer_s`: after how many seconds without anybody taking audio a turn fails, inf for never. Raises ConfigError for
    settings that cannot be right.
    """
    settings = replace(settings, speech={**settings.speech, name: entry})
    async with Service(settings, speech=[name], llms=[], limits=limits) as service:
        yield service.conversation(name, pace=pace, slow_consumer_s=slow_consumer_s)


class Service:
    """What all conversations of a process share: connections to speech endpoints, clients of LLMs, the embedded endpoint.

    `speech`, `llms`: the names to be used; None for all that the settings name, or the default where they name none. `limits`:
    in place of the endpoints' own. `quota`: counts against the limits on connections and turns together with others; None for a
    Service that is alone. Entering it raises ConfigError for settings that cannot be right.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        speech: Sequence[str] | None = None,
        llms: Sequence[str] | None = None,
        limits: Limits | None = None,
        quota: Quota | None = None,
    ) -> None:
        self.settings = settings
        self.quota: Quota = quota or LocalQuota()
        self._limits = limits
        self._entries = speech_chain(settings, wanted_speech(settings) if speech is None else dict.fromkeys(speech, ""))
        self._default_speech = next(iter(self._entries))
        names = dict.fromkeys([*settings.llm, choose_llm(settings)[0]] if llms is None else llms)
        self._llms = dict(choose_llm(settings, name) for name in names)
        self._keys: Mapping[str, str] = {}
        self._dialects: Mapping[str, Callable[[Setup], Dialect]] = {}
        self._tls: dict[str, ssl.SSLContext] = {}
        self._clients: dict[str, LlmClient] = {}
        self._relays: dict[str, list[Relay]] = {}
        self._local = ("", "")
        self._stack = AsyncExitStack()
        self._pool: Pool | None = None

    async def __aenter__(self) -> Self:
        self._keys = speech_keys(self._entries)
        self._dialects = speech_dialects(self._entries)
        check_shares(self._entries, self.settings.server.replicas)
        async with AsyncExitStack() as stack:
            if any(entry.dialect == LOCAL for entry in self._entries.values()):
                from .localspeech.embedded import embedded_endpoint

                meanwhile = partial(import_module, ".turn", __package__)
                self._local = await stack.enter_async_context(embedded_endpoint(meanwhile))
            cleaner(self.settings.text)  # the first one compiles its patterns, and the first turn need not wait for that
            self._pool = await self._open_pool(stack)
            for name, entry in self._entries.items():  # what cannot be asked for is known now, and not with the first turn
                self._endpoints(name, audio_format(entry), "", 1.0)
            for name, llm in self._llms.items():
                client = self._clients[name] = llm_client(self.settings, llm)
                await stack.enter_async_context(client)
                if llm.kind == "openai":
                    self._relays[name] = await self._chain_of_relays(stack, llm)
            self._stack = stack.pop_all()
        return self

    async def _open_pool(self, stack: AsyncExitStack) -> Pool:
        """Return the pool of connections, and read the certificate authorities that its endpoints need."""
        from .links.pool import Pool  # after the embedded endpoint, which loads them while it starts
        from .links.websocket import client_tls

        entries = self._entries.values()
        # Once: reading the authorities holds up all conversations for 20 ms.
        authorities = {entry.ca_file for entry in entries if entry.ca_file or _is_secure(entry)}
        self._tls = {path: client_tls(path or None) for path in authorities}
        connect_s = max(entry.connect_s for entry in entries)
        return await stack.enter_async_context(
            Pool(quota=self.quota, replicas=self.settings.server.replicas, connect_s=connect_s)
        )

    async def _chain_of_relays(self, stack: AsyncExitStack, llm: Llm) -> list[Relay]:
        """Open relays for an LLM, and for those that answer in its place and speak Chat Completions too."""
        from .sources.relay import Relay

        chain = [llm, *(choose_llm(self.settings, name)[1] for name in llm.failover)]
        made = [Relay(model_settings(entry)) for entry in chain if entry.kind == "openai"]
        return [await stack.enter_async_context(relay) for relay in made]

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def llms(self) -> list[str]:
        """The names of the LLMs, the default one first."""
        first = next(iter(self._llms)) if self.settings.default_llm not in self._llms else self.settings.default_llm
        return [first, *(name for name in self._llms if name != first)]

    @property
    def voices(self) -> list[str]:
        """The names of voices that clients may ask for: those of the settings, then OpenAI's. An endpoint may have more."""
        own = [entry.voice for entry in self._entries.values() if entry.voice]
        listed = [name for entry in self._entries.values() for name in entry.voices if "*" not in name]
        return list(dict.fromkeys([*self.settings.voices, *own, *listed, *_OPENAI_VOICES]))

    @property
    def speech(self) -> list[str]:
        """The names of the speech endpoints, the default one first."""
        return list(dict.fromkeys([self._default_speech, *self._entries]))

    @property
    def pool(self) -> Pool:
        """The connections. Raises LocalProtocolError when the service was not entered."""
        if self._pool is None:
            raise LocalProtocolError("the service was not entered", hint="use it with `async with`")
        return self._pool

    def conversation(
        self,
        speech: str = "",
        *,
        voice: str = "",
        format: AudioFormat | None = None,  # noqa: A002 - the word of every audio API
        speed: float = 1.0,
        pace: Pace = Pace.NONE,
        policy: Policy | None = None,
        slow_consumer_s: float = 60.0,
        client: Hashable = None,
    ) -> Conversation:
        """Return a conversation with an endpoint of the settings, and with those that take over when it fails.

        `speech`: the name of the endpoint, "" for the default. `voice`: a name of the settings, one of OpenAI's, or one of the
        endpoint; "" for the endpoint's usual voice. `format`: None for the endpoint's own. `speed`: a multiple of its speed.
        Opens nothing. Raises UnknownName, and ConfigError for what cannot be asked for.
        """
        from .speech.utterance.groups import Resume
        from .turn import Conversation

        speech, voice = self._voice(speech, voice)
        entry = self._entry(speech)
        text = self.settings.text
        return Conversation(
            self.pool,
            self._endpoints(speech, format or audio_format(entry), voice, speed),
            policy=policy or (Policy(text.policy) if text.policy else None),
            pace=pace,
            cleaner=partial(cleaner, text),
            fragmenter=partial(fragmenter, text),
            resume=Resume(entry.resume),
            spill=entry.spill,
            ahead_s=entry.ahead_s,
            slow_consumer_s=slow_consumer_s,
            token_s=text.token_s,
            client=client,
        )

    def answer(
        self, llm: str, prompt: Prompt, *, extra: Mapping[str, object] | None = None
    ) -> AsyncGenerator[str | Aside, None]:
        """Return a source: the answer of an LLM to a prompt.

        `llm`: its name in the settings, "" for the default. `extra`: more fields of the request. Raises UnknownName.
        """
        return self._clients[self._llm_name(llm)].answer(prompt, extra=extra)

    def relays(self, llm: str) -> Sequence[Relay]:
        """Return the servers to which requests for an LLM can be passed on unchanged, in the order in which they are tried.

        There are none for an LLM that does not speak Chat Completions. Raises UnknownName.
        """
        return self._relays.get(self._llm_name(llm), ())

    def takes_tools(self, llm: str) -> bool:
        """Return whether an LLM can be asked with functions to call. Raises UnknownName."""
        return KINDS[self._llms[self._llm_name(llm)].kind].takes_tools

    async def warm(self) -> bool:
        """Open a connection to the default endpoint, if none is open. Return whether one was opened.

        Raises SpeechError when none can be had.
        """
        name, before = self._default_speech, self.pool.opened
        await self.pool.warm(self._endpoint(name, audio_format(self._entry(name)), "", 1.0))
        return self.pool.opened > before

    def _llm_name(self, llm: str) -> str:
        name = llm or self.llms[0]
        if name not in self._clients:
            raise UnknownName(f"there is no model {shown(name)}", hint=f"give one of {', '.join(self.llms)}")
        return name

    def _entry(self, speech: str) -> Speech:
        if speech not in self._entries:
            known = ", ".join(self.speech)
            raise UnknownName(f"there is no speech endpoint {shown(speech)}", hint=f"give one of {known}")
        return self._entries[speech]

    def _voice(self, speech: str, voice: str) -> tuple[str, str]:
        """Return the name of the endpoint that has a voice, and the voice in that endpoint's words."""
        alias = self.settings.voices.get(voice)
        if alias is not None:
            return speech or alias.speech or self._default_speech, alias.voice
        speech = speech or self._default_speech
        entry = self._entry(speech)
        if voice in ("", entry.voice):
            return speech, ""
        if voice in _OPENAI_VOICES:
            # The embedded endpoint, too, knows the names of Deepgram's voices.
            registered = DIALECTS.get("deepgram" if entry.dialect == LOCAL else entry.dialect)
            return speech, registered.openai_voices.get(voice, "") if registered else ""
        allowed = not entry.voices or any(fnmatchcase(voice, pattern) for pattern in entry.voices)
        if not allowed or not PLAIN_NAME.fullmatch(voice):
            raise UnknownName(f"there is no voice {shown(voice)}", hint=f"give one of {', '.join(self.voices)}")
        return speech, voice

    def _endpoints(self, speech: str, fmt: AudioFormat, voice: str, speed: float) -> list[Endpoint]:
        """Return an endpoint and those that take over from it, all with one format: each goes on where another stopped."""
        names = dict.fromkeys([speech, *self._entries[speech].failover])
        endpoints = [self._endpoint(name, fmt, voice if name == speech else "", speed) for name in names]
        for endpoint in endpoints:
            endpoint.dialect.request()
        return endpoints

    def _endpoint(self, name: str, fmt: AudioFormat, voice: str, speed: float) -> Endpoint:
        from .links.pool import Endpoint

        entry = self._entries[name]
        local = entry.dialect == LOCAL
        url, key = self._local if local else (entry.url, self._keys[name])
        voice = voice or entry.voice or ("en-us" if local else "")
        setup = Setup(url, voice, fmt, key, round(entry.speed * speed, 2), entry.model, entry.language)
        dialect = self._dialects["deepgram" if local else entry.dialect](setup)
        given = {field: value for field, value in asdict(entry.limits).items() if value is not None}
        return Endpoint(
            dialect,
            name,
            connections=entry.connections,
            turns=entry.turns,
            limits=self._limits or dataclasses.replace(_LOCAL_LIMITS if local else dialect.limits, **given),
            tls=self._tls.get(entry.ca_file),
            silence_s=entry.silence_s,
        )


def _is_secure(entry: Speech) -> bool:
    """Return whether an endpoint is reached over TLS, as far as its settings tell."""
    return entry.dialect != LOCAL and not entry.url.startswith("ws:")
