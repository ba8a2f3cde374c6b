"""Who may import what: the layers of the package, read from the source of every module."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT, child_environment

PACKAGE = ROOT / "llm2ws"

# The floors of the package, from the ground up, each with its rooms: a module, or a folder with all that is in it. A room may
# import what is on the floors below and in itself, and nothing beside or above it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("audio", "address"),
    ("text", "sources", "sinks"),
    ("speech.messages",),
    ("speech.dialect",),
    ("speech.slot",),
    ("speech.dialects", "speech.session", "speech.utterance"),
    ("links", "localspeech"),
    ("turn",),
    ("watch",),
    ("settings",),
    ("service",),
    ("server",),
    ("command",),
    ("", "__main__"),  # "" is llm2ws/__init__.py: the public names
    ("testing",),  # for tests, users' and ours: imported by none
)

# What a room may import of the floors below, where that is less than all. The longest name that fits a module counts.
_SPEECH = ("errors", "audio", "address", "text.fragments", "speech.messages", "speech.dialect", "speech.slot")
NARROWER: dict[str, tuple[str, ...]] = {
    "speech": _SPEECH,
    "sources": ("errors", "address"),
    "sinks": ("errors", "audio"),
    "links": ("errors", "audio", "address", "speech"),
    "localspeech": ("errors", "audio", "address", "speech.dialects"),
    "localspeech.worker": (),  # a program of its own
    # A turn speaks over any Slot: no connection or pool. Asides come out of it as they went in.
    "turn": ("errors", "audio", "text", "speech", "links.endpoint", "sources.aside"),
    "watch": ("errors", "turn"),
    "settings": ("errors", "audio", "address", "text", "speech", "sources"),
    # Faces push text into a turn, and read what comes beside it.
    "server": ("errors", "audio", "address", "text.fragments", "sources", "speech", "turn", "watch", "settings", "service"),
    "testing": ("errors", "audio", "speech.dialects"),
}

# No event loop, clock, socket, environment, randomness or logger: time and chance are arguments.
PURE = ("errors", "audio", "address", "text", "speech", "sources.sse")
IMPURE_MODULES = {
    *("aiohttp", "asyncio", "concurrent", "ctypes", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random"),
    *(
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "structlog",
        "subprocess",
        "tempfile",
        "threading",
    ),
    *("time", "urllib.request", "uuid", "websockets"),
}
IMPURE_CALLS = {"open", "print", "input"}

# What is slow to import, and the modules that may do so when they are imported themselves: nothing that `say` needs at start.
SLOW = (
    "aiohttp",
    "anthropic",
    "espeakng_loader",
    "grpc",
    "httpx2",
    "lameenc",
    "miniaudio",
    "numpy",
    "openai",
    "prometheus_client",
    "soxr",
    "tritonclient",
)
SLOW_ALLOWED = {"localspeech.worker": {"numpy", "soxr"}, "server": {"aiohttp"}, "watch.metrics": {"prometheus_client"}}


class Import(NamedTuple):
    module: str  # absolute
    line: int
    at_start: bool  # when the importing module is imported: not in a function, not for the type checker only


def modules() -> dict[str, Path]:
    """Every module by its name within the package; the package itself is ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[Import]:
    """All imports of a module, in functions and for the type checker too."""
    here = ["llm2ws", *name.split(".")] if name else ["llm2ws"]
    package = here if path.name == "__init__.py" else here[:-1]

    def visit(node: ast.AST, *, at_start: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno, at_start) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join([*package[: len(package) - level + 1], *filter(None, [module])]) if level else module or ""
                yield from (
                    Import(f"{base}.{alias.name}" if is_module(base, alias.name) else base, node.lineno, at_start)
                    for alias in names
                )
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from children(node, at_start=False)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from children(node, at_start=False)
            case _:
                yield from children(node, at_start=at_start)

    def children(node: ast.AST, *, at_start: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_start=at_start)

    yield from visit(ast.parse(path.read_text()), at_start=True)


def is_module(base: str, name: str) -> bool:
    """Whether `from base import name` means a module of ours."""
    folder = ROOT.joinpath(*base.split("."))
    return base.split(".")[0] == "llm2ws" and ((folder / name).is_dir() or (folder / f"{name}.py").exists())


def within(module: str, layer: str) -> bool:
    return module == layer or module.startswith(f"{layer}.")


def longest(name: str, rooms: Iterable[str]) -> str:
    """The room that a module is in, "" for none."""
    return max((room for room in rooms if room and within(name, room)), key=len, default="")


FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = modules()
every_module = pytest.mark.parametrize("name", MODULES)


@every_module
def test_only_what_is_on_the_floors_below(name: str) -> None:
    room = longest(name, FLOOR)
    if name == "speech":  # the folder's own __init__.py
        assert not list(our_imports(name))
        return
    assert room or not name, f"llm2ws.{name} is in no room: give it one in FLOORS"
    for target, line in our_imports(name):
        beneath = longest(target, FLOOR)
        if target == "speech" or beneath == room:
            continue
        assert FLOOR[beneath] < FLOOR[room], (
            f"{MODULES[name]}:{line}: {room or 'llm2ws'} may not import {target}: it is no floor below"
        )


@every_module
def test_no_more_than_it_needs_of_the_floors_below(name: str) -> None:
    layer = longest(name, NARROWER)
    if not layer:
        return
    own = longest(name, FLOOR)
    for target, line in our_imports(name):
        if layer != "localspeech.worker" and within(target, own):
            continue
        assert any(within(target, other) for other in NARROWER[layer]), (
            f"{MODULES[name]}:{line}: {layer} may not import {target}"
        )


def our_imports(name: str) -> Iterator[tuple[str, int]]:
    """What a module imports of the package, and where."""
    for module, line, _ in imports(name, MODULES[name]):
        if within(module, "llm2ws"):
            yield module.removeprefix("llm2ws").removeprefix("."), line


def test_every_rule_is_about_something_that_is_there() -> None:
    for room in {*FLOOR, *NARROWER, *(name for allowed in NARROWER.values() for name in allowed)} - {""}:
        assert any(within(name, room) for name in MODULES), f"{room} is not there"


@pytest.mark.parametrize("name", [name for name in MODULES if any(within(name, pure) for pure in PURE)])
def test_pure_modules_touch_nothing_outside(name: str) -> None:
    path = MODULES[name]
    for module, line, _ in imports(name, path):
        assert not any(within(module, impure) for impure in IMPURE_MODULES), f"{path}:{line}: {module} in a pure module"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_CALLS, f"{path}:{node.lineno}: {node.func.id}() in a pure module"
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), (
            f"{path}:{node.lineno}: asynchronous code in a pure module"
        )


@every_module
def test_slow_libraries_are_imported_where_they_are_used(name: str) -> None:
    allowed = SLOW_ALLOWED.get(longest(name, SLOW_ALLOWED), set())
    for module, line, at_start in imports(name, MODULES[name]):
        top = module.partition(".")[0]
        assert not at_start or top not in SLOW or top in allowed, (
            f"{MODULES[name]}:{line}: import {module} inside the function that needs it"
        )


def test_the_worker_needs_only_the_standard_library_numpy_and_soxr() -> None:
    for module, line, _ in imports("localspeech.worker", PACKAGE / "localspeech" / "worker.py"):
        top = module.partition(".")[0]
        assert top in sys.stdlib_module_names | {"__future__", "numpy", "soxr"}, f"worker.py:{line}: {module}"


def test_the_command_starts_without_the_slow_libraries() -> None:
    code = f"import sys, llm2ws.command.cli; print(*sorted(set({SLOW!r}) & set(sys.modules)))"
    command = [sys.executable, "-P", "-c", code]

    loaded = subprocess.run(command, env=child_environment(), cwd=os.sep, check=True, capture_output=True, text=True).stdout

    assert loaded.split() == []
