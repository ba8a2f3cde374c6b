"""The public face: few names, sorted, loaded when they are used, with types."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from operator import attrgetter

import pytest

import llm2ws
from tests.support import ROOT, child_environment


def kind_then_name(name: str) -> tuple[int, str]:
    """The order that ruff keeps every `__all__` in: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_at_most_25_sorted_names_that_exist() -> None:
    assert list(llm2ws.__all__) == sorted(llm2ws.__all__, key=kind_then_name)
    assert len(llm2ws.__all__) == len(set(llm2ws.__all__)) <= 25
    for name in llm2ws.__all__:
        assert getattr(llm2ws, name) is not None
        assert name in dir(llm2ws)


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
