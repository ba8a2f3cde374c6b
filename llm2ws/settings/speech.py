"""Speech endpoints: which one the settings name, and those that take over from it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from ..address import is_key
from ..audio import AudioFormat, Encoding
from ..errors import ConfigError
from ..speech.dialect import Dialect, Setup
from ..speech.dialects import DIALECTS
from .fields import Settings, Speech, is_description
from .keys import key_of
from .loading import read_toml

__all__ = [
    "LOCAL",
    "PLAIN_NAME",
    "audio_format",
    "check_shares",
    "choose_speech",
    "known_dialect",
    "shown",
    "speech_chain",
    "speech_dialects",
    "speech_keys",
    "wanted_speech",
]

LOCAL = "local"  # the name of the embedded endpoint
PLAIN_NAME = re.compile(r"[\w (][\w ()+.'-]{0,63}")  # a voice that a client may give, and a message may show


def _default(settings: Settings) -> str:
    return settings.default_speech or next(iter(settings.speech), LOCAL)


def choose_speech(settings: Settings, wanted: str = "", *, of: str = "") -> tuple[str, Speech]:
    """Return the name and the settings of an endpoint.

    `wanted`: a name in the settings, a dialect, a file that describes one, "local", a URL, "" for the default.
    `of`: the setting that names it, for messages; "" for an argument, which may be a URL too.

    An endpoint without address and key takes its vendor's key. Raises ConfigError for a name that is not known.
    """
    name = wanted or _default(settings)
    if "://" in name and not of:
        return _host(name), Speech(url=name, dialect="deepgram")
    entry = settings.speech.get(name)
    if entry is None and is_description(name):
        entry = Speech(dialect=name)
    if entry is None and name not in (*DIALECTS, LOCAL):
        known = ", ".join(dict.fromkeys([*settings.speech, *DIALECTS, LOCAL]))
        what = f"{of}{of and ': '}speech endpoint {shown(name)} is not known"
        raise ConfigError(what, hint=f"give one of {known}{'' if of else ', or a ws:// or wss:// URL'}")
    entry = entry or Speech()
    dialect = entry.dialect or (name if name in (*DIALECTS, LOCAL) else "deepgram")
    registered = DIALECTS.get(known_dialect(dialect, f"speech.{name}."))
    vendor = settings.speech.get(registered.account if registered else dialect)
    if vendor and not (entry.url or entry.api_key or entry.api_key_file):
        entry = replace(entry, api_key=vendor.api_key, api_key_file=vendor.api_key_file)
    return name, replace(entry, dialect=dialect)


def wanted_speech(settings: Settings) -> dict[str, str]:
    """Return all endpoints of a daemon, the default first: `wanted` and `of` for `choose_speech`."""
    default = _default(settings)
    voices = {voice.speech: f"voices.{name}.speech" for name, voice in settings.voices.items() if voice.speech}
    models = {model.speech: f"models.{name}.speech" for name, model in settings.models.items() if model.speech}
    return {default: "", **dict.fromkeys(settings.speech, ""), **voices, **models}


def speech_chain(settings: Settings, wanted: Mapping[str, str]) -> dict[str, Speech]:
    """Return endpoints by their names, followed by those that take over from them. `wanted`: as `wanted_speech` returns it."""
    entries: dict[str, Speech] = {}
    waiting = deque(wanted.items())
    while waiting:
        each, of = waiting.popleft()
        name, entry = choose_speech(settings, each, of=of)
        if name not in entries:
            entries[name] = entry
            waiting.extend((other, f"speech.{name}.failover") for other in entry.failover)
    return entries


def speech_keys(entries: Mapping[str, Speech]) -> dict[str, str]:
    """Return the key of each endpoint, by its name; "" for none.

    Raises ConfigError for a key file that cannot be read, for a key that cannot be sent, and for a vendor's own address without
    a key.
    """
    keys = {name: key_of(entry).strip() for name, entry in entries.items()}
    for name, entry in entries.items():
        if keys[name] and not is_key(keys[name]):
            raise ConfigError(f"the key for {name} holds a character that no key has", hint="set it again")
        if not keys[name] and not entry.url and entry.dialect in DIALECTS:
            variable = DIALECTS[entry.dialect].key_variable
            raise ConfigError(f"no key for {name}", hint=f"set {variable}, or use the endpoint {LOCAL!r}")
    return keys


def speech_dialects(entries: Mapping[str, Speech]) -> dict[str, Callable[[Setup], Dialect]]:
    """Return the dialects that there are, with those that entries describe in a file, by their names.

    Raises ConfigError for a file that does not describe one.
    """
    return {
        **DIALECTS,
        **{entry.dialect: _described(entry.dialect) for entry in entries.values() if is_description(entry.dialect)},
    }


def _described(path: str) -> Callable[[Setup], Dialect]:
    from ..speech.dialects.described import described

    return described(read_toml(Path(path), "one that can be read"), path)


def check_shares(entries: Mapping[str, Speech], replicas: int) -> None:
    """Raise ConfigError for an endpoint that allows fewer connections or turns than there are daemons to share them."""
    for name, entry in entries.items():
        for limit, value in (("connections", entry.connections), ("turns", entry.turns)):
            if value is not None and value < replicas:
                what = f"speech.{name}.{limit}: {value} cannot be shared by {replicas} replicas"
                raise ConfigError(what, hint="run fewer, or raise it if the plan has more")


def known_dialect(dialect: str, of: str = "") -> str:
    """Return the dialect if there is one of that name. Raises ConfigError, which begins with `of`, if there is none."""
    if dialect not in (*DIALECTS, LOCAL) and not is_description(dialect):
        known = ", ".join([*DIALECTS, LOCAL])
        hint = f"give one of {known}, or a .toml file that describes another"
        raise ConfigError(f"{of}dialect: {dialect!r} is not known", hint=hint)
    return dialect


def audio_format(entry: Speech) -> AudioFormat:
    """Return the format of an endpoint's audio."""
    encoding = Encoding(entry.encoding)
    return AudioFormat(encoding, entry.sample_rate_hz or (24_000 if encoding is Encoding.LINEAR16 else 8_000))


def _host(url: str) -> str:
    """Return the host and port of a URL for people to see: what is around them may hold a password."""
    found = re.match(r"\w+://(?:[^/?#]*@)?((?:[\w.-]+|\[[\w:.]+\])(?::\d+)?)(?:[/?#]|$)", url)
    return found[1] if found else "url"


def shown(name: str) -> str:
    """Return a name that a client gave, in a form that is fit for a message."""
    return repr(name) if PLAIN_NAME.fullmatch(name) else "of that name"
