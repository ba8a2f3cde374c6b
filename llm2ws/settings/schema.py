"""The schema of the settings: which there are, of which type, and what each is for, by their paths."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .fields import Settings

__all__ = [
    "SettingPath",
    "bare_type",
    "describe",
    "description_of",
    "fields_at",
    "fields_of",
    "how_to_write",
    "is_table",
    "type_at",
]

SettingPath = tuple[str, ...]  # where a setting is: ("speech", "deepgram", "voice")


@cache
def fields_of(section: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a section of the settings, by their names."""
    return {field.name: field for field in msgspec.structs.fields(section)}


def bare_type(kind: object) -> object:
    """Return a type without its description and bounds."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def type_at(path: SettingPath) -> object:
    """Return the type of the setting or table at a path, with its description; None where there can be none."""
    kind: object = Settings
    for part in path:
        bare = bare_type(kind)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            kind = fields_of(bare)[part].type if part in fields_of(bare) else None
        elif typing.get_origin(bare) is dict:
            kind = typing.get_args(bare)[1]
        else:
            return None
    return kind


def fields_at(path: SettingPath) -> Mapping[str, object] | None:
    """Return the keys of a table with their types; None where any name may stand, and for what is no table."""
    kind = bare_type(type_at(path))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {name: field.type for name, field in fields_of(kind).items()}
    return None


def is_table(path: SettingPath) -> bool:
    """Return whether there is a table at a path, and not a setting."""
    return fields_at(path) is not None or typing.get_origin(bare_type(type_at(path))) is dict


def describe(path: SettingPath) -> str:
    """Return what a setting is for, in a few words: as its field says, else as the table around it does."""
    return description_of(type_at(path)) or description_of(type_at(path[:-1]))


def description_of(kind: object) -> str:
    """Return the description in an annotated type, "" for none."""
    return next((meta.description for meta in typing.get_args(kind)[1:] if isinstance(meta, Meta) and meta.description), "")


def how_to_write(path: SettingPath) -> str:
    """Return a hint for whoever set a setting to a value that it cannot have."""
    kind = bare_type(type_at(path))
    if kind is bool:
        return "write true or false"
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return "give one of " + ", ".join(value or '""' for value in typing.get_args(kind))
    return f"it sets {describe(path).partition(';')[0]}"
