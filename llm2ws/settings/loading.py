"""Where the value of a setting comes from, and what is wrong with it.

Strongest first: flags, `LLM2WS_...` of the environment, vendors' own variables, `.env`, the TOML files, defaults.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import tomllib
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ..errors import ConfigError
from ..speech.dialects import DIALECTS
from .fields import (
    ClientLimits,
    Key,
    Llm,
    Model,
    Play,
    Secret,
    Server,
    Settings,
    Speech,
    SpeechLimits,
    Text,
    Voice,
    is_description,
)
from .llms import KINDS

__all__ = ["Loaded", "check_speech", "describe", "load", "read_toml", "sample", "vendor_variables"]

PREFIX = "LLM2WS_"
# Of the same prefix, and no settings: which file to read, tracebacks for those who look for a bug, our own tests.
NOT_SETTINGS = ("LLM2WS_CONFIG", "LLM2WS_DEBUG", "LLM2WS_TEST_")

Path_ = tuple[str, ...]


class Loaded(NamedTuple):
    """Settings, where each that was set came from, and what a person should be told about them."""

    settings: Settings
    origins: Mapping[Path_, str]
    notes: tuple[str, ...] = ()


class _Layer(NamedTuple):
    origin: str  # what a person would look for: a file, ".env", "the environment", "the command line"
    values: Mapping[Path_, object]
    names: Mapping[Path_, str]  # how each is called there; by default its path with full stops
    words: bool = False  # values are text, to be read as what the setting is


def load(
    *,
    flags: Mapping[Path_, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: str | None = None,
    folder: str | None = None,
) -> Loaded:
    """All settings there are. `config`: the one TOML file to read; None: LLM2WS_CONFIG, else the usual ones that exist.
    `folder`: where `.env` is looked for; None: nowhere.

    Raises ConfigError, naming file and key, for what cannot be read, is not known or is not of its type.
    """
    environ = os.environ if environ is None else environ
    layers = [_toml(path) for path in _files(config or environ.get("LLM2WS_CONFIG"), environ)]
    names = {path[1] for layer in layers for path in layer.values if len(path) > 2}
    notes: list[str] = []
    if folder is not None and _is_file(dotenv := Path(folder, ".env")):
        layers += _variables(_dotenv(dotenv, notes), ".env", names)
    layers += _variables(environ, "the environment", names)
    layers.append(_Layer("the command line", dict(flags or {}), {}))

    tree: dict[str, object] = {}
    origins: dict[Path_, str] = {}
    for layer in layers:
        for path, value in layer.values.items():
            name = layer.names.get(path, ".".join(path))
            _put(tree, path, _checked(path, value, layer, name))
            origins[path] = layer.origin
    notes += _forget_strange_keys(tree, origins)
    _check_complete(origins)
    return Loaded(msgspec.convert(tree, Settings, dec_hook=_secret), origins, tuple(notes))


def _files(named: str | None, environ: Mapping[str, str]) -> list[Path]:
    """Weakest first."""
    if named:
        return [Path(named)]
    home = environ.get("XDG_CONFIG_HOME") or Path(os.path.expanduser("~"), ".config")  # noqa: PTH111 - Path's raises without a home
    return [path for path in (Path("/etc/llm2ws/llm2ws.toml"), Path(home, "llm2ws", "llm2ws.toml")) if _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder that is not ours
        return False


def _toml(path: Path) -> _Layer:
    return _Layer(str(path), dict(_leaves(read_toml(path, "a settings file that can be read"))), {})


def read_toml(path: Path, what: str) -> dict[str, object]:
    """What a TOML file holds; `what`: what else to name, for people. Raises ConfigError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows begin a file with a mark
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=f"name {what}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text", hint="name a TOML file") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: {exc}", hint="correct this line") from None


def _leaves(table: Mapping[str, object], path: Path_ = ()) -> Iterator[tuple[Path_, object]]:
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and _is_table(here):
            if _fields_at(here) is not None and len(here) == 2:
                yield here, {}  # an entry of which nothing is set is still one
            yield from _leaves(value, here)
        else:
            yield here, value


def _dotenv(path: Path, notes: list[str]) -> Mapping[str, str]:
    """What it sets. A line that sets nothing may be meant for another program: it is left out, and that is noted."""
    from dotenv.parser import parse_stream  # 20 ms

    try:
        bindings = list(parse_stream(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {getattr(exc, 'strerror', None) or 'not UTF-8 text'}", hint="mend or remove it") from None
    wrong = [binding.original.line for binding in bindings if binding.error]
    notes += [f".env: line {line} is left out: write NAME=value, with both quotes or none" for line in wrong]
    return {one.key: one.value for one in bindings if one.key is not None and one.value is not None}


def vendor_variables() -> dict[str, Path_]:
    """Return the vendors' own variables of the environment, and the setting that each stands for."""
    speech: dict[str, Path_] = {dialect.key_variable: ("speech", dialect.account, "api_key") for dialect in DIALECTS.values()}
    llms: dict[str, Path_] = {
        name: ("llm", kind.account, field) for kind in KINDS.values() for name, field in kind.variables.items()
    }
    return speech | llms


def _variables(environ: Mapping[str, str], origin: str, names: set[str]) -> list[_Layer]:
    """Return two layers: the vendors' variables, then ours. `names`: those of entries, which may have hyphens."""
    called = {path: name for name, path in vendor_variables().items()}
    vendors = {path: environ[name] for path, name in called.items() if environ.get(name)}
    own: dict[Path_, object] = {}
    # No variable can have a hyphen in its name.
    spelt = {name.lower().replace("-", "_"): name for name in (*DIALECTS, *names)}
    for name, value in environ.items():
        if name.startswith(PREFIX) and not name.startswith(NOT_SETTINGS) and value:
            path = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if len(path) > 2:
                path = (path[0], spelt.get(path[1], path[1]), *path[2:])
            own[path] = value
            called[path] = name
    return [_Layer(origin, vendors, called, words=True), _Layer(origin, own, called, words=True)]


# --- what there is to set ---------------------------------------------------------------------------------------------------


@cache
def _fields(section: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(section)}


def _bare(kind: object) -> object:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _kind_at(path: Path_) -> object:
    """The type of what stands there, with its description; None where nothing can."""
    kind: object = Settings
    for part in path:
        bare = _bare(kind)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            kind = _fields(bare)[part].type if part in _fields(bare) else None
        elif typing.get_origin(bare) is dict:
            kind = typing.get_args(bare)[1]
        else:
            return None
    return kind


def _fields_at(path: Path_) -> Mapping[str, object] | None:
    """The keys of a table with their types; None where any name may stand, and for what is no table."""
    kind = _bare(_kind_at(path))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {name: field.type for name, field in _fields(kind).items()}
    return None


def _is_table(path: Path_) -> bool:
    return _fields_at(path) is not None or typing.get_origin(_bare(_kind_at(path))) is dict


def _checked(path: Path_, value: object, layer: _Layer, name: str) -> object:
    """The value as what the setting is, ready to be converted with all others."""
    if _is_table(path):
        if isinstance(value, Mapping):
            return {}
        raise ConfigError(f"{layer.origin}: {name}: expected a table", hint=f"write {_header(path, layer)}")
    kind = _kind_at(path)
    if kind is None:
        raise ConfigError(f"{layer.origin}: {name}: no such setting", hint=_nearest(path, layer))
    if layer.words and typing.get_origin(_bare(kind)) is tuple:
        value = [part.strip() for part in str(value).split(",")]
    try:
        return msgspec.convert(value, kind, strict=not layer.words, dec_hook=_secret)
    except msgspec.ValidationError as exc:
        # msgspec quotes a value that is not in its list. It may have been meant for another setting, such as a key.
        wrong = str(exc).replace("`", "").partition(" '")[0]
    # Raised outside, so that msgspec's own words do not come along as the context.
    raise ConfigError(f"{layer.origin}: {name}: {wrong[0].lower()}{wrong[1:]}", hint=_kind_of(path))


def _header(path: Path_, layer: _Layer) -> str:
    """How a table is begun in that layer."""
    if path[-1] in (_fields_at(path) or ()):
        path = path[:-1]  # a setting of an entry, and not the name of one
    if _fields_at((*path, "<name>")):
        path = (*path, "<name>")
    return f"{PREFIX}{'__'.join(path).upper()}__..." if layer.words else f"[{'.'.join(path)}]"


def _kind_of(path: Path_) -> str:
    kind = _bare(_kind_at(path))
    if kind is bool:
        return "write true or false"
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return "give one of " + ", ".join(value or '""' for value in typing.get_args(kind))
    return f"it sets {describe(path).partition(';')[0]}"


def _nearest(path: Path_, layer: _Layer) -> str:
    """What was probably meant, written as in that layer."""
    table, key = path[:-1], path[-1]
    while table and not _is_table(table):
        table, key = table[:-1], table[-1]
    known = _fields_at(table)
    if known is None:
        return f"give settings under a name: [{'.'.join(table)}.<name>]"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    right = ".".join((*table, close[0])) if close else ""
    if right and layer.words:
        right = PREFIX + right.upper().replace(".", "__")
    if right:
        return f"did you mean {right}?"
    meant = next((name for name in known if layer.words and key.startswith(f"{name}_") and _is_table((*table, name))), "")
    if meant:
        return f"two underscores are between the parts of a name: {PREFIX}{'__'.join((*table, meant)).upper()}__..."
    return f"known here: {', '.join(known)}"


def _secret(kind: type, value: object) -> object:
    if kind is Secret and isinstance(value, Secret):
        return value
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError("Expected `str`")


def _check_complete(origins: Mapping[Path_, str]) -> None:
    """Raises ConfigError for an entry without a setting that has no default: no layer had it, so nothing else names it."""
    for path, origin in origins.items():
        entry = path[:2]
        kind = _bare(_kind_at(entry))
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for name, field in _fields(kind).items():
                missing = (*entry, name)
                if field.required and missing not in origins:
                    raise ConfigError(f"{origin}: {'.'.join(missing)}: not set", hint=_kind_of(missing))


def _put(tree: dict[str, object], path: Path_, value: object) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        assert isinstance(inner, dict)
        tree = inner
    if value == {}:
        tree.setdefault(path[-1], {})
    else:
        tree[path[-1]] = value


def _forget_strange_keys(tree: Mapping[str, object], origins: dict[Path_, str]) -> list[str]:
    """A `.env` that came with somebody's folder must not send a key of yours to an address of its own."""
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


def check_speech(origin: str, fields: Mapping[str, object]) -> None:
    """Of a speech endpoint that code describes. Raises ConfigError, naming origin and field, for what is not of its type."""
    for name, value in fields.items():
        _checked(("speech", "", name), value, _Layer(origin, {}, {}), name)


# --- for people -------------------------------------------------------------------------------------------------------------


def describe(path: Path_) -> str:
    """What a setting is for, in a few words."""
    return _description(_kind_at(path)) or _description(_kind_at(path[:-1]))


def _description(kind: object) -> str:
    return next((meta.description for meta in typing.get_args(kind)[1:] if isinstance(meta, Meta) and meta.description), "")


def sample() -> str:
    """The settings file: every key with its default and why. Tables whose names are free are commented out."""
    out = [
        "# llm2ws: every setting, its default, and why one would change it. Read from --config, else $LLM2WS_CONFIG, else",
        "# ~/.config/llm2ws/llm2ws.toml and /etc/llm2ws/llm2ws.toml. The environment is stronger: LLM2WS_TEXT__MAX_CHARS=200.",
        "",
        *_sample_of(Settings, ()),
        *_sample_of(Text, ("text",)),
        f"# {'[text.replace]':30} # {describe(('text', 'replace'))}",
        '# "nginx" =                      # for example: engine x (unset)',
        "",
        *_sample_of(Play, ("play",)),
        *_sample_of(Server, ("server",)),
        *_sample_of(ClientLimits, ("server", "limits")),
        *_sample_of(Key, ("server", "keys"), off="# ", unset=True),
        "# Under any name; several may stand side by side.",
        *_sample_of(Llm, ("llm", "echo"), off="# "),
        *_sample_of(Speech, ("speech", "deepgram"), off="# "),
        *_sample_of(SpeechLimits, ("speech", "deepgram", "limits"), off="# "),
        *_sample_of(Voice, ("voices", "alloy"), off="# ", unset=True),
        *_sample_of(Model, ("models", "tts-1"), off="# ", unset=True),
    ]
    return "\n".join(out).rstrip() + "\n"


def _sample_of(section: type[msgspec.Struct], path: Path_, *, off: str = "", unset: bool = False) -> Iterator[str]:
    """`unset`: the table is one of many that have no defaults."""
    if path:
        table = f"[[{'.'.join(path)}]]" if path == ("server", "keys") else f"[{'.'.join(path)}]"
        yield f"{off}{table:30} # as many as there are (unset)" if unset else f"{off}{table}"
    for name, field in _fields(section).items():
        if not _is_table((*path, name)) and (*path, name) != ("server", "keys"):
            value = field.default.reveal() if isinstance(field.default, Secret) else field.default
            missing = unset or value is None
            line = f"{name} =" if missing else f"{name} = {json.dumps(value)}"
            comment = _description(field.type) + (" (unset)" if missing else "")
            yield f"{off or ('# ' if missing else '')}{line:30} # {comment}"
    yield ""
