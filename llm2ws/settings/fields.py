"""The settings: each is one field below, with its type, its unit in the name, its default and what it is for.

`config/llm2ws.toml` and all checks of settings are made from these fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ..speech.dialects import DIALECTS

__all__ = [
    "ClientLimits",
    "Key",
    "Llm",
    "Markup",
    "Model",
    "Play",
    "Secret",
    "Server",
    "Settings",
    "Speech",
    "SpeechLimits",
    "TextSettings",
    "Voice",
    "is_description",
]


class Secret:
    """A key, "" for none. Its text is in no repr and no log: only `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the key."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"


# Bounds also keep infinity and "not a number" out, which no timer takes; as seconds the upper one is some thirty years.
Positive = Annotated[int, Meta(gt=0)]
Float = Annotated[float, Meta(ge=0, le=1e9)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e9)]


class SpeechLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint allows on one connection. Where nothing is set, the vendor's own limits hold."""

    chars_per_speak: Annotated[Positive | None, Meta(description="characters in one message")] = None
    chars_per_window: Annotated[Positive | None, Meta(description="characters a minute; less for a smaller plan")] = None
    flushes_per_window: Annotated[Positive | None, Meta(description="flushes a minute")] = None
    life_s: Annotated[
        PositiveFloat | None, Meta(description="the age at which it closes a connection; a turn moves before")
    ] = None


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """A speech endpoint."""

    dialect: Annotated[
        str,
        Meta(
            description=f"{', '.join(DIALECTS)}, local, or a .toml file that describes another; "
            "empty: its own name, or deepgram"
        ),
    ] = ""
    url: Annotated[str, Meta(description="ws:// or wss:// address; empty: the vendor's own")] = ""
    voice: Annotated[str, Meta(description="the voice, in the endpoint's words; empty: its usual one")] = ""
    model: Annotated[str, Meta(description="for vendors whose voices have several, such as eleven_flash_v2_5")] = ""
    language: Annotated[str, Meta(description="as the vendor writes it, such as de; empty: what voice or text say")] = ""
    voices: Annotated[
        tuple[str, ...], Meta(description="others that clients of the daemon may ask for, as aura-2-*; empty: all it has")
    ] = ()
    speed: Annotated[PositiveFloat, Meta(description="multiple of the voice's usual speed")] = 1.0
    encoding: Annotated[
        Literal["linear16", "mulaw", "alaw"], Meta(description="how a sample is written; mulaw for telephony")
    ] = "linear16"
    sample_rate_hz: Annotated[
        int, Meta(ge=0, description="samples a second; 0: 24000 for linear16, 8000 for mulaw and alaw")
    ] = 0
    api_key: Annotated[Secret, Meta(description="better in the environment or in api_key_file than here")] = Secret()
    api_key_file: Annotated[str, Meta(description="a file that holds the key alone")] = ""
    ca_file: Annotated[str, Meta(description="a PEM file with a private certificate authority, beside the system's")] = ""
    silence_s: Annotated[PositiveFloat, Meta(description="how long it may be silent while it owes audio")] = 10.0
    connect_s: Annotated[PositiveFloat, Meta(description="for all tries together to open a connection")] = 5.0
    connections: Annotated[Positive | None, Meta(description="how many may be open at once; less than the plan has")] = None
    turns: Annotated[
        Positive | None, Meta(description="how many may be spoken at once, where the plan counts these; others wait")
    ] = None
    failover: Annotated[tuple[str, ...], Meta(description="names of the endpoints that take over when it fails")] = ()
    resume: Annotated[
        Literal["seam", "next-group", "fail"],
        Meta(
            description="a text whose connection breaks: goes on where it broke off, is left out from there, or ends the turn"
        ),
    ] = "seam"
    spill: Annotated[
        bool, Meta(description="a second connection takes over while a limit on characters or flushes holds one back")
    ] = False
    ahead_s: Annotated[
        PositiveFloat, Meta(description="speech asked for before it is heard: paid in vain when interrupted")
    ] = 30.0
    limits: SpeechLimits = SpeechLimits()


def is_description(dialect: str) -> bool:
    """Return whether a dialect is the path of a file that describes it, and not a name."""
    return dialect.endswith(".toml")


class Llm(msgspec.Struct, frozen=True, kw_only=True):
    """An LLM, or another source of answers."""

    kind: Annotated[
        str,
        Meta(
            description="openai, responses, anthropic, sse, ndjson, text, triton, or echo (the prompt itself); empty: its name"
        ),
    ] = ""
    base_url: Annotated[
        str,
        Meta(description="http:// or https:// address of the API, of sse, ndjson and text all of it; empty: the vendor's own"),
    ] = ""
    model: Annotated[str, Meta(description="as the server calls it; empty: a small one of the vendor's")] = ""
    api_key: Annotated[Secret, Meta(description="better in the environment or in api_key_file than here")] = Secret()
    api_key_file: Annotated[str, Meta(description="a file that holds the key alone")] = ""
    ca_file: Annotated[str, Meta(description="a PEM file with a private certificate authority in place of the system's")] = ""
    system: Annotated[str, Meta(description="the system prompt")] = ""
    template: Annotated[
        str, Meta(description="a text with {prompt}, and perhaps {system}, that is asked instead; empty: the prompt as it is")
    ] = ""
    temperature: Annotated[Float | None, Meta(description="how freely it writes")] = None
    max_tokens: Annotated[Positive | None, Meta(description="the longest answer")] = None
    stop: Annotated[tuple[str, ...], Meta(description="words at which it stops writing")] = ()
    max_retries: Annotated[int, Meta(ge=0, description="of a request that got no answer; never after its first word")] = 2
    first_token_s: Annotated[
        PositiveFloat, Meta(description="from the request to the first word: a model may have to load")
    ] = 120.0
    stall_s: Annotated[PositiveFloat, Meta(description="silence within an answer after which it counts as dead")] = 30.0
    failover: Annotated[
        tuple[str, ...], Meta(description="names of those that answer instead when it fails before its first word")
    ] = ()
    request: Annotated[
        str,
        Meta(description='JSON for sse, ndjson, text, triton: "{prompt}", "{messages}" and other settings stand for values'),
    ] = ""
    text_path: Annotated[
        str,
        Meta(
            description="where sse and ndjson have the text, as choices.0.delta.content; of triton the output; empty: all of it"
        ),
    ] = ""
    text_events: Annotated[
        tuple[str, ...],
        Meta(description="of sse, names of the events that hold text, message for those without; empty: the usual ones"),
    ] = ()
    end: Annotated[
        str,
        Meta(
            description="of sse and ndjson, what only their end has: an event's name, all its data, or a path; empty: nothing"
        ),
    ] = ""
    error_path: Annotated[str, Meta(description="of sse and ndjson, where they say that they failed")] = "error"
    cumulative: Annotated[
        bool | None, Meta(description="each text repeats those before it; unset: no, of triton it is told apart")
    ] = None
    headers: Annotated[
        tuple[Secret, ...], Meta(description="that sse, ndjson, text and triton are sent besides, each as Name: value")
    ] = ()
    key_header: Annotated[str, Meta(description="where those are given the key: there as Bearer, in others alone")] = (
        "Authorization"
    )
    tokens_per_s: Annotated[Float, Meta(description="how fast echo writes; 0: all at once")] = 40.0


# The fields of text.rules.Rules.
Markup = Literal[
    "code",
    "emoji",
    "emphasis",
    "entities",
    "escapes",
    "footnotes",
    "headings",
    "html",
    "images",
    "inline_code",
    "links",
    "lists",
    "math",
    "quotes",
    "separators",
    "tables",
    "think",
    "unseen",
    "urls",
]


class TextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How text is made fit to be spoken."""

    policy: Annotated[
        Literal["", "token", "word", "clause-first", "sentence"],
        Meta(description="how far text is cut; empty: as the endpoint wants it"),
    ] = ""
    language: Annotated[str, Meta(description="whose abbreviations are known, such as de; empty: all that are")] = ""
    max_chars: Annotated[int, Meta(ge=20, description="the longest fragment")] = 300
    first_min_chars: Annotated[
        int, Meta(ge=1, description="past half of this a comma ends the first fragment, past four times it a conjunction")
    ] = 20
    first_max_chars: Annotated[
        int, Meta(ge=20, description="the first fragment is cut here, unless it ends by itself within an eighth more")
    ] = 120
    token_s: Annotated[PositiveFloat, Meta(description="silence of what writes the text after which it counts as dead")] = 300.0
    code_phrase: Annotated[str, Meta(description="said once for each block of code; empty: nothing")] = (
        "The code is on your screen."
    )
    keep: Annotated[
        tuple[Markup, ...], Meta(description="markup that is said as it is written, such as emoji, tables or urls")
    ] = ()
    replace: Annotated[dict[str, str], Meta(description="words that are said differently, spelt as the model spells them")] = {}


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """The loudspeaker."""

    device: Annotated[
        str, Meta(description="miniaudio, pacat, aplay, pw-play, ffplay, or null for silence in real time; empty: what works")
    ] = ""
    ahead_s: Annotated[PositiveFloat, Meta(description="audio that waits to be played: more rides out a busier machine")] = 2.0


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """A name that clients of the daemon may ask for, and what it stands for."""

    voice: Annotated[str, Meta(description="the voice, in the endpoint's words")]
    speech: Annotated[str, Meta(description="the [speech.<name>] that has it; empty: the default")] = ""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a speech model that clients of the daemon may ask for, and what it stands for."""

    speech: Annotated[str, Meta(description="the [speech.<name>] that speaks; OpenAI's names stand for the default")]


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client key may use."""

    body_bytes: Annotated[int, Meta(gt=0, description="the largest request")] = 4_000_000
    message_bytes: Annotated[int, Meta(gt=0, description="the largest WebSocket message")] = 1_000_000
    messages_per_s: Annotated[PositiveFloat, Meta(description="requests and WebSocket messages a second")] = 200.0
    text_chars: Annotated[int, Meta(gt=0, description="the longest text to speak, and the longest answer")] = 200_000
    conversations: Annotated[int, Meta(gt=0, description="requests and WebSockets at once")] = 500
    turn_speech_s: Annotated[PositiveFloat, Meta(description="speech in one answer")] = 3_600.0
    hour_speech_s: Annotated[PositiveFloat | None, Meta(description="speech in an hour")] = None


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client of the daemon. Its limits are those of [server.limits] where it has none of its own."""

    name: Annotated[str, Meta(min_length=1, description="whose it is: for logs and metrics")]
    key: Annotated[Secret, Meta(description="what the client presents; better in key_file than here")] = Secret()
    key_file: Annotated[str, Meta(description="a file that holds the key alone")] = ""
    limits: Annotated[dict[str, float], Meta(description="those of [server.limits] that are others for it")] = {}


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon."""

    listen: Annotated[str, Meta(description="HOST:PORT; another host than this machine's own demands client keys")] = (
        "127.0.0.1:8765"
    )
    insecure: Annotated[bool, Meta(description="serve other machines without client keys")] = False
    hosts: Annotated[tuple[str, ...], Meta(description="names under which clients reach it, besides this machine's own")] = ()
    origins: Annotated[tuple[str, ...], Meta(description="web pages that may use it, such as https://app.example.com")] = ()
    tls_cert_file: Annotated[str, Meta(description="a PEM file with the certificate; empty: plain http")] = ""
    tls_key_file: Annotated[str, Meta(description="a PEM file with its key; empty: it is in the other file")] = ""
    replicas: Annotated[
        int, Meta(gt=0, description="daemons that share the endpoints' connections and turns; each has an equal part")
    ] = 1
    drain_s: Annotated[Float, Meta(description="how long running answers may go on after SIGTERM")] = 30.0
    ready_s: Annotated[PositiveFloat, Meta(description="without an answer of an endpoint for so long, it is not ready")] = 60.0
    keys: Annotated[
        tuple[Key, ...], Meta(description="the clients, each a [[server.keys]] with a name and a key or key_file")
    ] = ()
    limits: ClientLimits = ClientLimits()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings."""

    default_llm: Annotated[str, Meta(description="the [llm.<name>] that answers; empty: the first one, else echo")] = ""
    default_speech: Annotated[
        str, Meta(description="the [speech.<name>] that speaks; empty: the first one, else the embedded endpoint")
    ] = ""
    log: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="the least that is logged")] = "warning"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="auto: console on a terminal, the journal under systemd, else JSON"),
    ] = "auto"
    text: TextSettings = TextSettings()
    play: Play = Play()
    llm: dict[str, Llm] = {}
    speech: dict[str, Speech] = {}
    voices: dict[str, Voice] = {}
    models: dict[str, Model] = {}
    server: Server = Server()
