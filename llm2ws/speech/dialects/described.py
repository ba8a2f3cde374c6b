"""A speech endpoint that a file describes: for sockets so simple that they need no code.

Messages to the endpoint are tables with places for values; messages from it are recognized by the
values at paths in them. One turn is spoken at a time. config/speech.toml shows every field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from ...audio import AudioFormat
from ...errors import ConfigError
from ...text.fragments import Policy
from ..dialect import Limits, Request, Setup, Traits, check_setup, checked_url
from ..messages import (
    AudioChunk,
    Cancelled,
    Command,
    Event,
    Failed,
    FlushAcked,
    Scope,
    Speak,
    Unknown,
)
from .description import KEY, TEXT, Description, Table, description_of, limits_of
from .reading import STATUSES, audio_in, closing, holds, one_line, read_at, read_object, refusal
from .templates import fill

__all__ = ["Described", "described"]

_STATUSES = STATUSES | {401: ("the key is wrong or missing: set api_key or api_key_file", None)}


@dataclass(frozen=True, slots=True)
class Described:
    """The dialect of a description, for one Setup."""

    setup: Setup
    name: str
    limits: Limits
    traits: Traits
    description: Description = field(hash=False, repr=False)

    @property
    def format(self) -> AudioFormat:
        return self.setup.format

    @property
    def policy(self) -> Policy:
        return self.description.policy

    def request(self) -> Request:
        setup, it = self.setup, self.description
        check_setup(setup, self.name, dict.fromkeys(it.audio.encodings, it.audio.rates_hz))
        written = f"{it.headers} {it.query} {it.send}"
        for name in ("key", "language", "model", "speed", "voice"):
            if getattr(setup, name) not in ("", 1.0) and f"{{{name}}}" not in written:
                hint = f'leave it out, or write "{{{name}}}" where it goes'
                raise ConfigError(f"{self.name} takes no {name}", hint=hint)
        url = urlsplit(checked_url(setup.url or it.url, key=setup.key, path=urlsplit(it.url).path))
        query = self._filled(it.query) | dict(parse_qsl(url.query))  # what the URL says goes first
        given = {name: text for name, text in it.headers.items() if setup.key or KEY not in text}
        headers = {name: text.replace(KEY, setup.key) for name, text in given.items()}
        return Request(url._replace(query=urlencode(query)).geturl(), headers)

    def encode(self, command: Command) -> list[str | bytes]:
        send, name = self.description.send, type(command).__name__.lower()
        # Where nothing is spoken before a Flush, it ends a turn as well.
        template: Table | None = getattr(send, "flush" if name == "end" and send.flush else name)
        if template is None:
            return []
        message = self._filled(template, command.text if isinstance(command, Speak) else "")
        return [msgspec.json.encode(message).decode()]

    def decode(self, message: str | bytes) -> list[Event]:
        it, receive = self.description, self.description.receive
        if isinstance(message, bytes):
            return [Unknown("a binary frame") if it.audio.path else AudioChunk(message)]
        data = read_object(message)
        if holds(data, receive.error):
            said = self._clean(read_at(data, it.error_path)) or "it does not say why"
            return [Failed(Scope.LINK, f"the endpoint failed ({said})", "try again", 0.0)]
        events: list[Event] = []
        if holds(data, it.audio.when) and (audio := audio_in(read_at(data, it.audio.path))):
            events.append(AudioChunk(audio))
        if holds(data, receive.done):
            events.append(FlushAcked())
        if holds(data, receive.cancelled):
            events.append(Cancelled())
        return events or [Unknown(self._clean(data.get("type"))[:40])]

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        said = read_at(read_object(body), self.description.error_path)
        return refusal(status, self._clean(said), _STATUSES)

    def closed(self, code: int, reason: str) -> Failed:
        return closing(code, self._clean(reason), None)

    def _filled(self, template: Mapping[str, object], text: str = "") -> Table:
        setup, it = self.setup, self.description
        values = {
            "{encoding}": it.audio.encodings.get(setup.format.encoding),
            "{language}": setup.language or None,
            "{model}": setup.model or it.model or None,
            "{sample_rate}": setup.format.sample_rate_hz,
            "{speed}": setup.speed if setup.speed != 1.0 else None,
            "{voice}": setup.voice or it.voice or None,
            TEXT: text,
        }
        return fill(template, values)

    def _clean(self, said: object) -> str:
        return one_line(str(said or ""), self.setup.key)


def described(table: Mapping[str, object], name: str) -> Callable[[Setup], Described]:
    """Return the dialect that a table describes. Raises ConfigError with `name` and the key."""
    it = description_of(table, name)
    traits = Traits(
        audio_waits_for_flush=bool(it.send.flush),
        cancels=bool(it.send.cancel),
        ping_s=it.ping_s,
        keepalive_s=it.keepalive_s,
    )
    return partial(Described, name=name, limits=limits_of(it), traits=traits, description=it)
