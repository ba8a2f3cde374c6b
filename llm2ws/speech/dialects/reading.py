"""Read vendors' messages and answers without raising: a field that cannot be read is empty.

The tables hold what statuses and close codes mean for every vendor; a dialect adds its own to them.
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

# What to do about a failure, and after how many seconds another try makes sense (None: never).
Advice = tuple[str, float | None]
# What a failure means, and the advice.
Verdict = tuple[str, str, float | None]

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

LARGEST = 10**12  # the largest time that is believed, in seconds or milliseconds: far from what overflows


def read_object(message: str | bytes) -> dict[str, object]:
    """Return the JSON object in a message, {} for anything else."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def read_text(data: Mapping[str, object], *names: str) -> str:
    """Return the first of these fields that is a string, else ""."""
    return next((value for name in names if isinstance(value := data.get(name), str)), "")


def read_ref(data: Mapping[str, object], *names: str) -> int:
    """Return the number of the context that the first of these fields names; 0, which no turn has, where there is none."""
    name = read_text(data, *names)
    return int(name) if len(name) < 20 and name.isdecimal() else 0


def audio_in(value: object) -> bytes | None:
    """Return the audio in a base64 text: b"" for a value of None, None for anything that is not base64."""
    if value is None:
        return b""
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None


def read_at(value: object, path: str) -> object:
    """Return the value at a path, None where there is none.

    A path is keys with full stops between them; a number stands for an element of a list.
    """
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
    """Return whether all paths of `wanted` lead to the values that it has for them. False for None.

    An empty table as such a value stands for any value except null: the path only has to exist.
    """
    if wanted is None:
        return False
    return all(_matches(read_at(value, path), inner) for path, inner in wanted.items())


def _matches(found: object, wanted: object) -> bool:
    if wanted == {}:
        return found is not None
    return holds(found, wanted) if isinstance(wanted, dict) else found == wanted


def read_numbers(data: Mapping[str, object], *names: str) -> list[float]:
    """Return the first of these fields that is a list of numbers up to LARGEST, else []."""
    for name in names:
        value = data.get(name)
        if isinstance(value, list) and all(isinstance(item, int | float) and abs(item) <= LARGEST for item in value):
            return [float(item) for item in value]
    return []


def words_of(chars: Iterable[tuple[str, float, float]]) -> tuple[Word, ...]:
    """Join characters to words. `chars`: each character with its start and end in seconds.

    The last word may go on in the next message.
    """
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
    """Return the verdict on the first phrase of `verdicts` that a vendor's words hold, None for no such phrase."""
    said = said.lower()
    return next((verdict for phrase, verdict in verdicts.items() if phrase in said), None)


def one_line(text: str, key: str) -> str:
    """Return a vendor's words as one short line for an error or a log. The key is masked where they quote it."""
    if key:
        text = text.replace(key, "***")
    return "".join(c if c.isprintable() else " " for c in text)[:120].strip()


def refusal(status: int, said: str, statuses: Mapping[int, Advice]) -> Failed:
    """Return what it means that a handshake was answered with another status than 101. `said`: the vendor's words, one line."""
    hint, retry_s = statuses.get(status, ("try again", 1.0) if status >= 500 else ("look at url", None))
    if 200 <= status < 300:
        hint = "this is no speech endpoint: look at url"
    if 300 <= status < 400:
        hint = "redirects are not followed, since the key would go along: look at url"
    what = f"answered HTTP {status}" + (f" ({said})" if said else "")
    return Failed(Scope.LINK, what, hint, retry_s, status=status)


def closing(code: int, reason: str, known: Verdict | None) -> Failed:
    """Return what a close frame means.

    `reason`: the vendor's words, one line. `known`: the verdict on that reason, which goes before the one on the code; None for
    no such verdict.
    """
    what, hint, retry_s = known or CLOSE_CODES.get(code) or ("the endpoint closed the connection", "try again", 0.0)
    sign = f"{code} {reason}".strip()
    return Failed(Scope.LINK, f"{what} ({sign})", hint, retry_s, code=code, reason=reason)
