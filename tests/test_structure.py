"""What scripts/structure counts, on small packages made for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts import structure


def package(folder: Path, **sources: str) -> list[structure.Module]:
    """Write modules into a folder, a name with "__" being one in a folder of its own, and read them."""
    for name, source in sources.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return structure.modules(folder)


def function(source: str) -> structure.Function:
    """Return the one function of a source."""
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    return node


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): pass", 1),
        ("def f(a):\n if a: pass\n elif a > 1: pass\n else: pass", 3),
        ("def f(a):\n return a and 1 or 2", 3),
        ("def f(a):\n for x in a: pass\n else: pass", 3),
        ("def f(a):\n return [x for x in a if x if not x]", 4),
        ("def f(a):\n try: a()\n except OSError: pass\n except ValueError: pass\n else: pass", 4),
        ("def f(a):\n match a:\n  case 1: pass\n  case 2: pass\n  case _: pass", 3),
        ("def f(a):\n def g():\n  return 1 if a else 2\n return g", 3),
    ],
)
def test_complexity(source: str, expected: int) -> None:
    assert structure.complexity(function(source)) == expected


def test_a_circle_is_found_when_only_the_type_checker_closes_it(tmp_path: Path) -> None:
    found = package(
        tmp_path,
        one="from .two import X",
        two="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .part.three import Y",
        part__three="from .. import one",
        four="from . import one",
    )
    names = {module.name for module in found}
    arrows = {module.name: structure.imported(module, names) for module in found}
    assert structure.circles(arrows) == [["one", "part.three", "two"]]


def test_a_class_name_of_two_modules_is_told_with_both(tmp_path: Path) -> None:
    found = package(tmp_path, one="class A: pass\nclass B: pass", two="class A: pass")
    assert structure.repeated_classes(found) == ["A: one, two"]


def test_an_attribute_that_is_first_set_by_a_method_is_told(tmp_path: Path) -> None:
    found = package(
        tmp_path,
        one="""
class A:
    declared: int
    def __init__(self):
        self.early = 1
        self.reset()
    def reset(self):
        self.again = 0
    def run(self):
        self.early, self.declared, self.late = 1, 2, 3
""",
    )
    assert structure.late_attributes(found) == ["one.A.late"]


def test_a_helper_with_one_caller_and_many_arguments_is_told(tmp_path: Path) -> None:
    source = "def _helper(a, b, c, d, e, f): pass\ndef g(): _helper(1, 2, 3, 4, 5, 6)\n"
    assert structure.long_helpers(package(tmp_path, one=source)) == ["one._helper has 6"]
    assert structure.long_helpers(package(tmp_path, one=source + "_helper(1, 2, 3, 4, 5, 6)")) == []


def test_blank_lines_comments_and_docstrings_are_no_code(tmp_path: Path) -> None:
    (module,) = package(tmp_path, one='"""Docstring.\n\nMore.\n"""\n\n# A comment.\nx = """\ntext\n"""  # three lines\n')
    assert structure.code_lines(module) == 3
