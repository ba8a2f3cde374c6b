"""Messages with places for values: tables in which a text such as "{voice}" stands for one.

A value is put in as a value and never pasted into text, and what it holds is not looked at: no text can change a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

__all__ = ["fill", "places_in"]


def fill(template: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """Return a template with values in their places. A place whose value is None is left out with its key."""
    filled = ((key, _filled(inner, values)) for key, inner in template.items())
    return {key: inner for key, inner in filled if inner is not None}


def places_in(*templates: object) -> set[str]:
    """Return the texts that stand for values, and those that look like it, such as "Token {key}"."""
    return set(re.findall(r'[^"]*\{\w+\}[^"]*', msgspec.json.encode(templates).decode()))


def _filled(inner: object, values: Mapping[str, object]) -> object:
    match inner:
        case dict():
            return fill(inner, values)
        case list():
            return [_filled(element, values) for element in inner]
        case str():
            return values.get(inner, inner)
        case _:
            return inner
