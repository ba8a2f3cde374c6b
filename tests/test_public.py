"""The public names: all that a program needs, sorted, loaded when they are used, with types."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from operator import attrgetter
from typing import get_args, get_type_hints

import anthropic
import openai
import pytest

import llm2ws
from llm2ws import errors
from tests.support import ROOT, child_environment


def kind_then_name(name: str) -> tuple[int, str]:
    """The order that ruff keeps every `__all__` in: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_sorted_names_that_exist() -> None:
    assert list(llm2ws.__all__) == sorted(set(llm2ws.__all__), key=kind_then_name)
    for name in llm2ws.__all__:
        assert getattr(llm2ws, name) is not None
        assert name in dir(llm2ws)


# There is no ceiling on the number of names: what a caller has to match on, catch or pass must be importable.
@pytest.mark.parametrize("error", errors.__all__)
def test_every_error_is_public(error: str) -> None:
    assert getattr(llm2ws, error) is getattr(errors, error)


def test_every_event_of_a_turn_is_public() -> None:
    events = get_args(llm2ws.TurnEvent)
    assert {llm2ws.Said, llm2ws.Audio, llm2ws.Notice, llm2ws.Aside, llm2ws.Done} == set(events)
    parts = (type_ for event in events for type_ in get_type_hints(event).values())
    ours = {type_.__name__ for type_ in parts if getattr(type_, "__module__", "").startswith("llm2ws")}
    assert ours == {"NoticeKind", "Outcome", "Spoken", "TurnStats"}
    assert ours <= set(llm2ws.__all__)


def argument_types(kind: object) -> set[str]:
    """The names of the package's own classes in a type, which may be a union or have parameters."""
    inner = {name for part in get_args(kind) for name in argument_types(part)}
    return inner | ({kind.__name__} if isinstance(kind, type) and kind.__module__.startswith("llm2ws") else set())


@pytest.mark.parametrize("name", [name for name in llm2ws.__all__ if name[0].islower()])
def test_every_type_that_a_public_function_takes_or_gives_is_public(name: str) -> None:
    public = {public: getattr(llm2ws, public) for public in llm2ws.__all__}  # service.py imports some for type checkers only
    hints = get_type_hints(getattr(llm2ws, name), localns={**public, "anthropic": anthropic, "openai": openai})
    assert {type_ for kind in hints.values() for type_ in argument_types(kind)} <= set(llm2ws.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        attrgetter("no_such_name")(llm2ws)


def test_importing_the_package_loads_none_of_its_modules() -> None:
    code = "import sys, llm2ws; print(*[name for name in sys.modules if name.startswith('llm2ws.')], 'asyncio' in sys.modules)"
    command = [sys.executable, "-P", "-c", code]

    loaded = subprocess.run(command, env=child_environment(), check=True, capture_output=True, text=True).stdout

    assert loaded.split() == ["False"]


def test_the_types_are_shipped() -> None:
    assert (ROOT / "llm2ws" / "py.typed").is_file()


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        installed = importlib.metadata.version("llm2ws")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm2ws is not installed here, only on the path")

    assert installed == project["version"]
