"""Vendors' messages and answers, read leniently: what cannot be read is empty. What dialects say about them is one line.

The tables hold what is the same for every vendor; a dialect adds its own to them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping

from ..messages import Failed, Scope, Word

__all__ = [
    "CLOSE_CODES",
    "LARGEST",
    "STATUSES",
    "Advice",
    "Verdict",
    "audio_in",
    "closing",
    "holds",
    "one_line",
    "read_at",
    "read_numbers",
    "read_object",
    "read_ref",
    "read_text",
    "refusal",
    "verdict_on",
    "words_of",
]

Advice = tuple[str, float | None]  # what to do, and after how many seconds another try makes sense (None: never)
Verdict = tuple[str, str, float | None]  # what it means, and the same

STATUSES: dict[int, Advice] = {
    400: ("look at voice, encoding, sample rate and speed", None),
    402: ("the account has no credit left", None),
    403: ("the key may not use this: look at its permissions", None),
    404: ("there is no speech endpoint at this address: look at url", None),
    408: ("try again", 1.0),
    429: ("too many connections at once for this account: try again later", 1.0),
}
CLOSE_CODES: dict[int, Verdict] = {
    1000: ("the endpoint closed the connection", "try again", 0.0),
    1001: ("the endpoint is going away", "try again", 0.0),
    1003: ("the endpoint does not take this kind of message", "this is a bug of llm2ws", None),
    1006: ("the connection broke", "look at the network", 0.0),
    1008: ("the endpoint refused a message", "", None),
    1009: ("a message was larger than the endpoint allows", "lower chars_per_speak for it", None),
    1011: ("the endpoint had an internal error", "try again", 0.0),
}

LARGEST = 10**12  # of times in seconds or milliseconds; far from what overflows


def read_object(message: str | bytes) -> dict[str, object]:
    """A JSON object, {} for anything else."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def read_text(data: Mapping[str, object], *names: str) -> str:
    """The first of these fields that is a string, else ""."""
    return next((value for name in names if isinstance(value := data.get(name), str)), "")


def read_ref(data: Mapping[str, object], *names: str) -> int:
    """The context that the first of these fields names by a number, as ours are; else 0, which is of no turn."""
    name = read_text(data, *names)
    return int(name) if len(name) < 20 and name.isdecimal() else 0


def audio_in(value: object) -> bytes | None:
    """Audio in base64; b"" for None, None for what is something else."""
    if value is None:
        return b""
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None


def read_at(value: object, path: str) -> object:
    """What is there: keys with full stops between them, a number for an element of a list. None where nothing is."""
    for key in path.split("."):
        match value:
            case dict():
                value = value.get(key)
            case list() if key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            case _:
                return None
    return value


def holds(value: object, wanted: Mapping[str, object] | None) -> bool:
    """Whether all paths of `wanted` lead to the values that it has for them; never for None."""
    if wanted is None:
        return False
    found = ((read_at(value, path), inner) for path, inner in wanted.items())
    return all(holds(there, inner) if isinstance(inner, dict) else there == inner for there, inner in found)


def read_numbers(data: Mapping[str, object], *names: str) -> list[float]:
    """The first of these fields that is a list of numbers up to LARGEST, else []."""
    for name in names:
        value = data.get(name)
        if isinstance(value, list) and all(isinstance(item, int | float) and abs(item) <= LARGEST for item in value):
            return [float(item) for item in value]
    return []


def words_of(chars: Iterable[tuple[str, float, float]]) -> tuple[Word, ...]:
    """Words from characters and their times, from and to, in seconds. The last one may go on in the next message."""
    words: list[Word] = []
    apart = True
    for char, start_s, end_s in chars:
        if char.isspace():
            apart = True
        elif apart:
            words.append(Word(char, start_s, end_s))
            apart = False
        else:
            words[-1] = Word(words[-1].text + char, words[-1].start_s, end_s)
    return tuple(words)


def verdict_on(said: str, verdicts: Mapping[str, Verdict]) -> Verdict | None:
    """What is known of the first of these phrases that a vendor's words hold."""
    said = said.lower()
    return next((verdict for phrase, verdict in verdicts.items() if phrase in said), None)


def one_line(text: str, key: str) -> str:
    """A vendor's words, fit for one line of an error or a log, even where they quote our key."""
    if key:
        text = text.replace(key, "***")
    return "".join(c if c.isprintable() else " " for c in text)[:120].strip()


def refusal(status: int, said: str, statuses: Mapping[int, Advice]) -> Failed:
    """A handshake answered with another status than 101. `said`: the vendor's words, one line."""
    hint, retry_s = statuses.get(status, ("try again", 1.0) if status >= 500 else ("look at url", None))
    if 200 <= status < 300:
        hint = "this is no speech endpoint: look at url"
    if 300 <= status < 400:
        hint = "redirects are not followed, since the key would go along: look at url"
    what = f"answered HTTP {status}" + (f" ({said})" if said else "")
    return Failed(Scope.LINK, what, hint, retry_s, status=status)


def closing(code: int, reason: str, known: Verdict | None) -> Failed:
    """A close frame. `reason`: the vendor's words, one line. `known`: what is known of the reason, before the code."""
    what, hint, retry_s = known or CLOSE_CODES.get(code) or ("the endpoint closed the connection", "try again", 0.0)
    sign = f"{code} {reason}".strip()
    return Failed(Scope.LINK, f"{what} ({sign})", hint, retry_s, code=code, reason=reason)
