"""One place that sets values, such as a file or the environment, and the check of each value against the schema."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ..errors import ConfigError
from .fields import Secret
from .schema import SettingPath, bare_type, fields_at, how_to_write, is_table, type_at

__all__ = ["PREFIX", "Layer", "check_fields", "checked", "read_secret"]

PREFIX = "LLM2WS_"  # of the variables of the environment that are settings


class Layer(NamedTuple):
    """One place that sets values. `origin` is what a person would look for: a file, ".env", "the environment".

    `names`: how a setting is called there, where that is not its path with full stops. `words`: its values are text, to be read
    as the type of the setting.
    """

    origin: str
    values: Mapping[SettingPath, object]
    names: Mapping[SettingPath, str]
    words: bool = False


def checked(path: SettingPath, value: object, layer: Layer, name: str) -> object:
    """Return a value as the type of its setting, ready to be converted with all others; {} for a table.

    `name`: what the setting is called in its layer. Raises ConfigError for a setting that there is not, and for a value of
    another type.
    """
    if is_table(path):
        if isinstance(value, Mapping):
            return {}
        raise ConfigError(f"{layer.origin}: {name}: expected a table", hint=f"write {_header(path, layer)}")
    kind = type_at(path)
    if kind is None:
        raise ConfigError(f"{layer.origin}: {name}: no such setting", hint=_nearest(path, layer))
    if layer.words and typing.get_origin(bare_type(kind)) is tuple:
        value = [part.strip() for part in str(value).split(",")]
    try:
        return msgspec.convert(value, kind, strict=not layer.words, dec_hook=read_secret)
    except msgspec.ValidationError as exc:
        # msgspec quotes a value that is not in its list. It may have been meant for another setting, such as a key.
        wrong = str(exc).replace("`", "").partition(" '")[0]
    # Raised outside, so that msgspec's own words do not come along as the context.
    raise ConfigError(f"{layer.origin}: {name}: {wrong[0].lower()}{wrong[1:]}", hint=how_to_write(path))


def check_fields(origin: str, table: SettingPath, fields: Mapping[str, object]) -> None:
    """Check fields of a table that code gives. Raises ConfigError, naming `origin` and the field."""
    for name, value in fields.items():
        path = (*table, name)
        checked(path, value, Layer(origin, {}, {}), name)
        if isinstance(value, Mapping) and is_table(path):
            check_fields(origin, path, value)


def read_secret(kind: type, value: object) -> object:
    """Return a Secret for msgspec, which does not know that type. Raises ValidationError for what is no text."""
    if kind is Secret and isinstance(value, Secret):
        return value
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError("Expected `str`")


def _header(path: SettingPath, layer: Layer) -> str:
    """Return how a table is begun in a layer."""
    if path[-1] in (fields_at(path) or ()):
        path = path[:-1]  # a setting of an entry, and not the name of one
    if fields_at((*path, "<name>")):
        path = (*path, "<name>")
    return f"{PREFIX}{'__'.join(path).upper()}__..." if layer.words else f"[{'.'.join(path)}]"


def _nearest(path: SettingPath, layer: Layer) -> str:
    """Return a hint: what was probably meant, written as in that layer."""
    table, key = path[:-1], path[-1]
    while table and not is_table(table):
        table, key = table[:-1], table[-1]
    fields = fields_at(table)
    if fields is None:
        return f"give settings under a name: [{'.'.join(table)}.<name>]"
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    right = ".".join((*table, close[0])) if close else ""
    if right and layer.words:
        right = PREFIX + right.upper().replace(".", "__")
    if right:
        return f"did you mean {right}?"
    meant = next((name for name in fields if layer.words and key.startswith(f"{name}_") and is_table((*table, name))), "")
    if meant:
        return f"two underscores are between the parts of a name: {PREFIX}{'__'.join((*table, meant)).upper()}__..."
    return f"known here: {', '.join(fields)}"
