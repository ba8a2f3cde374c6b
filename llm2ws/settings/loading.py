"""Load the settings from all places that set them.

The strongest first: flags, `LLM2WS_...` of the environment, vendors' own variables, `.env`, the TOML files, defaults.
"""

from __future__ import annotations

import io
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import ConfigError
from ..speech.dialects import DIALECTS
from .fields import Settings, is_description
from .layers import PREFIX, Layer, checked, read_secret
from .llms import KINDS
from .schema import SettingPath, bare_type, fields_at, fields_of, how_to_write, is_table, type_at

__all__ = ["Loaded", "load", "read_toml", "vendor_variables"]

# Variables with the prefix of settings that are none: the file to read, tracebacks for debugging, the project's tests.
NOT_SETTINGS = ("LLM2WS_CONFIG", "LLM2WS_DEBUG", "LLM2WS_TEST_")


class Loaded(NamedTuple):
    """Settings, where each that was set came from, and what a person should be told about them."""

    settings: Settings
    origins: Mapping[SettingPath, str]
    notes: tuple[str, ...] = ()


def load(
    *,
    flags: Mapping[SettingPath, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: str | None = None,
    folder: str | None = None,
) -> Loaded:
    """Return all settings, with their origins.

    `flags`: settings of the command line, by their paths. `environ`: None for that of the process. `config`: the one TOML file
    to read; None for that of LLM2WS_CONFIG, else the usual files that exist. `folder`: where `.env` is looked for; None for
    nowhere. Raises ConfigError, naming file and key, for what cannot be read, is not known or is not of its type.
    """
    environ = os.environ if environ is None else environ
    layers = [_toml(path) for path in _files(config or environ.get("LLM2WS_CONFIG"), environ)]
    names = {path[1] for layer in layers for path in layer.values if len(path) > 2}
    notes: list[str] = []
    if folder is not None and _is_file(dotenv := Path(folder, ".env")):
        layers += _variables(_dotenv(dotenv, notes), ".env", names)
    layers += _variables(environ, "the environment", names)
    layers.append(Layer("the command line", dict(flags or {}), {}))

    tree: dict[str, object] = {}
    origins: dict[SettingPath, str] = {}
    for layer in layers:
        for path, value in layer.values.items():
            name = layer.names.get(path, ".".join(path))
            _put(tree, path, checked(path, value, layer, name))
            origins[path] = layer.origin
    notes += _forget_strange_keys(tree, origins)
    _check_complete(origins)
    return Loaded(msgspec.convert(tree, Settings, dec_hook=read_secret), origins, tuple(notes))


def _files(named: str | None, environ: Mapping[str, str]) -> list[Path]:
    """Return the TOML files to read, the weakest first."""
    if named:
        return [Path(named)]
    home = environ.get("XDG_CONFIG_HOME") or Path(os.path.expanduser("~"), ".config")  # noqa: PTH111 - Path's raises without a home
    return [path for path in (Path("/etc/llm2ws/llm2ws.toml"), Path(home, "llm2ws", "llm2ws.toml")) if _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder that is not ours
        return False


def _toml(path: Path) -> Layer:
    return Layer(str(path), dict(_leaves(read_toml(path, "a settings file that can be read"))), {})


def read_toml(path: Path, what: str) -> dict[str, object]:
    """Return what a TOML file holds. Raises ConfigError when it cannot be read; `what` says what file to name instead."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows begin a file with a mark
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=f"name {what}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text", hint="name a TOML file") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: {exc}", hint="correct this line") from None


def _leaves(table: Mapping[str, object], path: SettingPath = ()) -> Iterator[tuple[SettingPath, object]]:
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and is_table(here):
            if fields_at(here) is not None and len(here) == 2:
                yield here, {}  # an entry of which nothing is set is still one
            yield from _leaves(value, here)
        else:
            yield here, value


def _dotenv(path: Path, notes: list[str]) -> Mapping[str, str]:
    """Return what a .env file sets. A line that sets nothing may be meant for another program: it is left out, with a note."""
    from dotenv.parser import parse_stream  # 20 ms

    try:
        bindings = list(parse_stream(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {getattr(exc, 'strerror', None) or 'not UTF-8 text'}", hint="mend or remove it") from None
    wrong = [binding.original.line for binding in bindings if binding.error]
    notes += [f".env: line {line} is left out: write NAME=value, with both quotes or none" for line in wrong]
    return {line.key: line.value for line in bindings if line.key is not None and line.value is not None}


def vendor_variables() -> dict[str, SettingPath]:
    """Return the vendors' own variables of the environment, and the setting that each stands for."""
    speech: dict[str, SettingPath] = {
        dialect.key_variable: ("speech", dialect.account, "api_key") for dialect in DIALECTS.values()
    }
    llms: dict[str, SettingPath] = {
        name: ("llm", kind.account, field) for kind in KINDS.values() for name, field in kind.variables.items()
    }
    return speech | llms


def _variables(environ: Mapping[str, str], origin: str, names: set[str]) -> list[Layer]:
    """Return two layers: the vendors' variables, then ours. `names`: those of entries, which may have hyphens."""
    called = {path: name for name, path in vendor_variables().items()}
    vendors = {path: environ[name] for path, name in called.items() if environ.get(name)}
    own: dict[SettingPath, object] = {}
    # No variable can have a hyphen in its name.
    spelt = {name.lower().replace("-", "_"): name for name in (*DIALECTS, *names)}
    for name, value in environ.items():
        if name.startswith(PREFIX) and not name.startswith(NOT_SETTINGS) and value:
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if len(path) > 2:
                path = (path[0], spelt.get(path[1], path[1]), *path[2:])
            own[path] = value
            called[path] = name
    return [Layer(origin, vendors, called, words=True), Layer(origin, own, called, words=True)]


def _check_complete(origins: Mapping[SettingPath, str]) -> None:
    """Raise ConfigError for an entry in which a setting without a default is missing."""
    for path, origin in origins.items():
        entry = path[:2]
        kind = bare_type(type_at(entry))
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for name, field in fields_of(kind).items():
                missing = (*entry, name)
                if field.required and missing not in origins:
                    raise ConfigError(f"{origin}: {'.'.join(missing)}: not set", hint=how_to_write(missing))


def _put(tree: dict[str, object], path: SettingPath, value: object) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        assert isinstance(inner, dict)
        tree = inner
    if value == {}:
        tree.setdefault(path[-1], {})
    else:
        tree[path[-1]] = value


def _forget_strange_keys(tree: Mapping[str, object], origins: dict[SettingPath, str]) -> list[str]:
    """Remove keys that would go to an address of a `.env`: one that came with a folder must not send them anywhere.

    Returns a note for each.
    """
    notes = []
    for path in [path for path, origin in origins.items() if path[-1] in ("url", "base_url", "dialect") and origin == ".env"]:
        entry = tree
        for part in path[:-1]:
            inner = entry[part]
            assert isinstance(inner, dict)
            entry = inner
        assert isinstance(entry, dict)
        if path[-1] == "dialect" and not is_description(str(entry["dialect"])):
            continue  # it has no address
        for key in ("api_key", "api_key_file", "headers"):
            where = origins.get((*path[:-1], key), ".env")
            if key in entry and (where != ".env" or key == "api_key_file"):
                del entry[key]
                notes.append(f"{'.'.join(path)} is from .env: it is not given the key from {where}")
    return notes
