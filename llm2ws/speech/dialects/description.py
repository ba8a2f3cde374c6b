"""The fields of a description of a speech endpoint, and the check of one. config/speech.toml is an example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated

import msgspec

from ...audio import Encoding
from ...errors import ConfigError
from ...text.fragments import Policy
from ..dialect import Limits
from .templates import places_in

__all__ = ["KEY", "TEXT", "Description", "Table", "description_of", "limits_of"]

Table = dict[str, object]
Positive = Annotated[int, msgspec.Meta(gt=0)] | Annotated[float, msgspec.Meta(gt=0)]

TEXT, KEY = "{text}", "{key}"
_PLACES = ("{encoding}", "{language}", "{model}", "{sample_rate}", "{speed}", "{voice}")


class _Send(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Messages, named as the commands are. Either `flush` or `end` has to be there."""

    speak: Table
    begin: Table | None = None
    flush: Table | None = None
    end: Table | None = None
    cancel: Table | None = None
    keepalive: Table | None = None
    close: Table | None = None


class _Receive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    done: Table
    cancelled: Table | None = None
    error: Table | None = None


class _Audio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rates_hz: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    encodings: dict[Encoding, str]  # ours, and what each is called there
    path: str = ""  # where a message has it, in base64; "": binary frames are audio
    when: Table = {}  # which messages those are; {}: all that have something there


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole description. What has a default may be left out."""

    url: str
    audio: _Audio
    send: _Send
    receive: _Receive
    error_path: str = ""  # where an error has its words
    query: dict[str, str | int | float] = {}
    headers: dict[str, str] = {}
    voice: str = ""  # the usual one, as is
    model: str = ""
    policy: Policy = Policy.CLAUSE_FIRST
    ping_s: Positive = 20.0
    keepalive_s: Positive | None = None
    limits: dict[str, Positive] = {}


def description_of(table: Mapping[str, object], name: str) -> Description:
    """Return the description in a table. Raises ConfigError, which begins with `name` and the key."""
    try:
        it = msgspec.convert(table, Description)
        limits_of(it)
    except msgspec.ValidationError as exc:
        wrong, _, path = str(exc).replace("`", "").partition(" - at ")
        where = path.removeprefix("$").lstrip(".").replace("[...]", "")
        what = f"{name}: {where}{': ' if where else ''}{wrong}"
        raise ConfigError(what, hint="config/speech.toml shows all there is") from None
    for key, what in _mistakes(it):
        raise ConfigError(f"{name}: {key}: {what}")
    return it


def limits_of(it: Description) -> Limits:
    return msgspec.convert(it.limits, Limits)


def _mistakes(it: Description) -> Iterator[tuple[str, str]]:
    """Yield each mistake: the key, and what is wrong with its value."""
    limits = [limit.name for limit in fields(Limits)]
    for key in sorted(it.limits.keys() - limits):
        yield f"limits.{key}", f"is not known: give one of {', '.join(limits)}"
    for key, template in {"query": it.query, **msgspec.structs.asdict(it.send)}.items():
        allowed = (*_PLACES, TEXT) if key == "speak" else _PLACES
        for place in sorted(places_in(template) - set(allowed)):
            where = key if key == "query" else f"send.{key}"
            yield where, f"{place} stands for nothing: write one of {', '.join(allowed)}"
    for name, text in it.headers.items():
        for place in sorted(set(re.findall(r"\{\w+\}", text)) - {KEY}):
            yield f"headers.{name}", f"{place} stands for nothing: only {KEY} goes into a header"
    send, places = it.send, places_in(it.query, it.send)
    for key, place in (("encodings", "{encoding}"), ("rates_hz", "{sample_rate}")):
        if len(getattr(it.audio, key)) > 1 and place not in places:
            yield f"audio.{key}", f'there are several, so say where "{place}" goes'
    checks = (
        ("send.speak", TEXT in places, 'say where "{text}" goes'),
        ("send", bool(send.flush) != bool(send.end), "needs flush, or end if there is no flush"),
        ("receive.done", bool(it.receive.done), "say by what it is known"),
        ("send.cancel", bool(send.cancel) == bool(it.receive.cancelled), "needs receive.cancelled"),
        ("send.keepalive", bool(send.keepalive) == bool(it.keepalive_s), "needs keepalive_s"),
    )
    yield from ((key, what) for key, right, what in checks if not right)
