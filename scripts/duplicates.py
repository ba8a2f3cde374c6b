"""Finds code that is written twice: the same statements, whatever their variables are called.

    scripts/duplicates.py [FOLDER]

Part of scripts/check. A run of statements counts when its syntax tree has LEAST nodes or more; names of attributes, functions
and types are part of what is compared, names of variables are not. Imports, docstrings and the fields of classes are left out.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LEAST = 60
_IMPORTS = (ast.Import, ast.ImportFrom)


def shape(statements: list[ast.stmt], known: set[str]) -> str:
    """The statements as text, with variables numbered in the order in which they appear. `known`: names that are none."""
    numbers: dict[str, int] = {}
    parts = []
    for statement in statements:
        for node in ast.walk(statement):
            fields = [type(node).__name__]
            for field, value in ast.iter_fields(node):
                if isinstance(value, str | int | float | bytes | None) and field not in ("lineno", "kind", "type_comment"):
                    variable = field in ("id", "arg", "name") and isinstance(value, str) and value not in known
                    fields.append(f"{field}={numbers.setdefault(str(value), len(numbers)) if variable else value!r}")
            parts.append(f"{' '.join(fields)} {len(list(ast.iter_child_nodes(node)))}")
    return "\n".join(parts)


def bodies(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                yield [statement for statement in body if not passed_over(node, statement)]


def passed_over(parent: ast.AST, statement: ast.stmt) -> bool:
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    declared = isinstance(parent, ast.ClassDef) and isinstance(statement, ast.AnnAssign)
    return docstring or declared or isinstance(statement, _IMPORTS)


def runs(body: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """The shortest runs that are long enough, from each statement on."""
    sizes = [sum(1 for _ in ast.walk(statement)) for statement in body]
    for start in range(len(body)):
        size = 0
        for end in range(start, len(body)):
            size += sizes[end]
            if size >= LEAST:
                yield body[start : end + 1]
                break


def duplicates(folder: Path) -> list[list[tuple[Path, int, int]]]:
    """Places with the same code: file, first and last line. What lies within a longer one is left out."""
    found: dict[str, list[tuple[Path, int, int]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        known |= {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, _IMPORTS) for alias in node.names}
        for body in bodies(tree):
            for run in runs(body):
                found[shape(run, known)].append((path, run[0].lineno, run[-1].end_lineno or run[-1].lineno))
    twice = sorted((places for places in found.values() if len(places) > 1), key=lambda places: places[0][1] - places[0][2])
    kept: list[list[tuple[Path, int, int]]] = []
    for places in twice:
        if not any(all(any(within(place, other) for other in others) for place in places) for others in kept):
            kept.append(places)
    return kept


def within(place: tuple[Path, int, int], other: tuple[Path, int, int]) -> bool:
    return place[0] == other[0] and other[1] <= place[1] and place[2] <= other[2]


def main() -> int:
    found = duplicates(Path(sys.argv[1] if len(sys.argv) > 1 else "llm2ws"))
    for places in found:
        print("the same code: " + ", ".join(f"{path}:{first}-{last}" for path, first, last in places))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
