"""Count what the structure of the package is judged by.

    scripts/structure [--coverage] [--check]

Prints one line for each count, and below it the places that are counted. `--check` exits with 1 when a count is over its
bound. `--coverage` also runs the test file at each module's mirrored place alone and prints how much of the module it covers;
that takes minutes.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llm2ws"

# A public name per vendor, language or table: these are data, and their length is no measure of anything.
DATA = {"text/abbreviations.py"}
MAX_LINES = 400
MAX_COMPLEXITY = 20
MAX_ARGUMENTS = 5  # of a function that has one caller
LEAST_COVERAGE = 60  # percent


class Module(NamedTuple):
    """A module of the package. `name` is dotted and relative to the package, "" for the package itself."""

    name: str
    path: Path
    source: str
    tree: ast.Module


def modules(package: Path = PACKAGE) -> list[Module]:
    """Return all modules below a folder, sorted by path."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        source = path.read_text()
        found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path, source, ast.parse(source)))
    return found


def top_level(package: Path = PACKAGE) -> list[str]:
    """Return the modules and folders at the top of the package."""
    apart = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    return sorted(path.name for path in package.iterdir() if path.name not in apart)


# Import circles


def imported(module: Module, names: set[str]) -> set[str]:
    """Return the names of the package's modules that a module imports, for the type checker only included."""
    here = ["llm2ws", *filter(None, module.name.split("."))]
    folder = here if module.path.name == "__init__.py" else here[:-1]
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            parents = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full.removeprefix("llm2ws.") in names else base)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    ours = {name.removeprefix("llm2ws").removeprefix(".") for name in found if name.split(".")[0] == "llm2ws"}
    return (ours & names) - {module.name, ""}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or around a circle (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in arrows.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return sorted(found)


# Functions


Function = ast.FunctionDef | ast.AsyncFunctionDef

_ONE_EACH = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.comprehension)


def complexity(function: Function) -> int:
    """Return the cyclomatic complexity of a function, counted as radon does: boolean operators and `else` of loops too."""
    total = 1
    for node in ast.walk(function):
        if isinstance(node, _ONE_EACH):
            total += 1
        if isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.Try | ast.TryStar):
            total += bool(node.orelse)
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            total += len(node.ifs)
        elif isinstance(node, ast.Match):
            total += sum(not _is_wildcard(case) for case in node.cases)
        elif isinstance(node, ast.Lambda) or (isinstance(node, Function) and node is not function):
            total += 1
    return total


def _is_wildcard(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Yield the functions and methods of a module with their names, those within functions not apart."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.If | ast.Try):
                yield from visit(child, prefix)

    yield from visit(module.tree, "")


def long_helpers(found: Iterable[Module]) -> list[str]:
    """Return private functions with one caller and more than MAX_ARGUMENTS arguments."""
    long: list[str] = []
    for module in found:
        uses = Counter(
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute | ast.Name)
        )
        for name, function in functions(module):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            private = function.name.startswith("_") and not function.name.startswith("__")
            if private and uses[function.name] == 1 and count > MAX_ARGUMENTS:
                long.append(f"{module.name}.{name} has {count}")
    return long


# Classes


def repeated_classes(found: Iterable[Module]) -> list[str]:
    """Return class names that more than one module defines, with the modules."""
    homes = defaultdict(set)
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(module.name)
    return [f"{name}: {', '.join(sorted(where))}" for name, where in sorted(homes.items()) if len(where) > 1]


def late_attributes(found: Iterable[Module]) -> list[str]:
    """Return attributes that a class first sets outside `__init__` and does not declare in its body."""
    late = []
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                late += [f"{module.name}.{node.name}.{name}" for name in sorted(_set_late(node))]
    return late


def _set_late(node: ast.ClassDef) -> set[str]:
    declared = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
    declared |= {
        target.id
        for item in node.body
        if isinstance(item, ast.Assign)
        for target in item.targets
        if isinstance(target, ast.Name)
    }
    declared |= {item.name for item in node.body if isinstance(item, Function)}
    methods = {item.name: item for item in node.body if isinstance(item, Function)}
    begun = [methods[name] for name in ("__init__", "__new__", "__post_init__") if name in methods]
    # What `__init__` calls sets attributes in its place, as pylint has it: a method that also makes an instance as new again.
    called = {
        call.func.attr
        for method in begun
        for call in ast.walk(method)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _is_self(call.func.value)
    }
    begun += [methods[name] for name in called & set(methods)]
    early = {name for method in begun for name in _stored(method)}
    late = {name for method in methods.values() if method not in begun for name in _stored(method)}
    # Those of a base class in the same module or another are set in its `__init__`.
    return set() if node.bases and not early and not declared else late - early - declared


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _stored(method: Function) -> set[str]:
    return {
        part.attr
        for part in ast.walk(method)
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _is_self(part.value)
    }


# Lines


def code_lines(module: Module) -> int:
    """Return how many lines hold code: no blank ones, comments or docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    doc: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            doc.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    apart = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    with module.path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in apart and token.type != tokenize.ENCODING:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - doc)


def not_imperative() -> list[str]:
    """Return docstrings whose first line is not in the imperative mood, as ruff's rule D401 finds them."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "D401", "--output-format", "json", str(PACKAGE)]
    command[4:4] = ["--config", "lint.pydocstyle.convention='google'"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)
    return [f"{Path(row['filename']).relative_to(ROOT)}:{row['location']['row']}" for row in rows]


# Coverage


def mirrored(module: Module) -> Path:
    """Return the test file at a module's mirrored place, whether it exists or not."""
    path = module.path.relative_to(PACKAGE)
    stem = path.parent.name or "public" if path.stem == "__init__" else path.stem
    return ROOT / "tests" / path.parent / f"test_{stem}.py"


def covered(module: Module) -> float | None:
    """Return the share of a module's lines that its mirrored test file runs, in percent; None where there is no such file.

    The processes that the tests start count too, except the worker of the embedded endpoint, which loads nothing of this
    environment: its test runs its parts within the process of the test.
    """
    test = mirrored(module)
    if not test.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "settings")
        run = f"patch = subprocess\nparallel = true\nsigterm = true\ndata_file = {folder}/data\ninclude = {module.path}"
        settings.write_text(f"[run]\n{run}\n[json]\noutput = {folder}/report.json\n")

        def coverage(command: str, *arguments: str) -> int:
            line = [sys.executable, "-m", "coverage", command, f"--rcfile={settings}", *arguments]
            return subprocess.run(line, cwd=ROOT, capture_output=True, check=False).returncode

        coverage("run", "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(test))
        if coverage("combine", "-q") or coverage("json", "-q"):
            return 0.0
        return float(json.loads(Path(folder, "report.json").read_text())["totals"]["percent_covered"])


def poorly_covered(found: list[Module]) -> list[str]:
    """Return modules of which the mirrored test file runs less than LEAST_COVERAGE percent.

    A module without a function only declares things, and whoever imports it runs all of it: there is nothing to measure.
    """
    measured = [module for module in found if any(functions(module)) and module.name != "__main__"]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        shares = list(threads.map(covered, measured))
    rows = []
    for module, share in zip(measured, shares, strict=True):
        if share is None:
            rows.append(f"{module.name}: no {mirrored(module).relative_to(ROOT)}")
        elif share < LEAST_COVERAGE:
            rows.append(f"{module.name}: {share:.0f} %")
    return rows


class Count(NamedTuple):
    """One line of the table. `most`: the bound; None for a figure that is only to be compared."""

    what: str
    places: Callable[[], list[str]]
    most: int | None


def counts(found: list[Module], *, coverage: bool) -> list[Count]:
    """Return the table of what is counted."""
    names = {module.name for module in found}
    long = [module for module in found if str(module.path.relative_to(PACKAGE)) not in DATA]
    arrows = {module.name: imported(module, names) for module in found if module.name}
    rows = [
        Count("modules and folders at the top of the package", top_level, 16),
        Count("import circles, type-only imports included", lambda: [" - ".join(group) for group in circles(arrows)], 0),
        Count(
            f"modules of more than {MAX_LINES} lines, data apart",
            lambda: [f"{m.name}: {n}" for m in long if (n := len(m.source.splitlines())) > MAX_LINES],
            0,
        ),
        Count(
            f"functions of a complexity over {MAX_COMPLEXITY}",
            lambda: [f"{m.name}.{n}: {c}" for m in found for n, f in functions(m) if (c := complexity(f)) > MAX_COMPLEXITY],
            0,
        ),
        Count(f"helpers with one caller and more than {MAX_ARGUMENTS} arguments", lambda: long_helpers(found), None),
        Count("class names in more than one module", lambda: repeated_classes(found), 4),
        Count("docstrings not in the imperative (D401)", not_imperative, 0),
        Count("attributes first set outside __init__", lambda: late_attributes(found), 0),
        Count(
            "assertions that something is not None",
            lambda: [f"{m.name}:{node.lineno}" for m in found for node in asserted_not_none(m)],
            None,
        ),
    ]
    if coverage:
        rows.append(Count(f"modules whose own test file runs less than {LEAST_COVERAGE} %", lambda: poorly_covered(found), 0))
    return rows


def asserted_not_none(module: Module) -> list[ast.Assert]:
    """Return the assertions that something is not None, which tell of a state that the types do not hold."""
    asserted = [node for node in ast.walk(module.tree) if isinstance(node, ast.Assert)]
    return [node for node in asserted if ast.unparse(node.test).endswith("is not None")]


def main() -> int:
    """Print the table. Return 1 when `--check` was given and a count is over its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--brief", action="store_true", help="counts only, without the places")
    options = parser.parse_args()
    found = modules()
    over = False
    for row in counts(found, coverage=options.coverage):
        places = row.places()
        bound = "" if row.most is None else f" (at most {row.most})"
        print(f"{len(places):5}  {row.what}{bound}")
        if not options.brief:
            print(*(f"         {place}" for place in places), sep="\n", end="\n" if places else "")
        over |= row.most is not None and len(places) > row.most
    print(
        f"{sum(map(code_lines, found)):5}  lines of code in {len(found)} modules, without blank lines, comments and docstrings"
    )
    return int(over and options.check)


if __name__ == "__main__":
    sys.exit(main())
