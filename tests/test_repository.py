"""What must not be in the repository: machines, registries, secrets' files; and that the lock files lock."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

# Put together here, so that this file does not hold them itself.
FORBIDDEN = [
    *("py" + "pi.org", "python" + "hosted.org", "registry.npm" + "js", "proxy.go" + "lang"),
    *("/ro" + "ot/", "/wo" + "rk/", "/op" + "t/", "/home" + "/", "file" + ":///"),
]
NOT_OURS = {".git", ".venv", ".venv-lowest", "__pycache__", "build", "dist", "node_modules"}
LOCKS = ("requirements.lock", "requirements-dev.lock")


def ours() -> Iterator[Path]:
    """The files of the repository; without git, all files that are not somebody else's."""
    try:
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = []
    for path in paths or ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and NOT_OURS.isdisjoint(parts) and (paths or not any(part.startswith(".") for part in parts)):
            yield path


def test_no_file_names_a_registry_or_a_place_on_some_machine() -> None:
    found = []
    for path in ours():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # audio
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}: {word}" for n, line in enumerate(lines, 1) for word in FORBIDDEN if word in line
        ]

    assert found == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_an_exact_version_and_a_hash(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line and not line.startswith("#")]

    assert packages
    for package in packages:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+ ", package)
        assert "--hash=sha256:" in package


def test_both_locks_agree_and_hold_what_the_project_asks_for() -> None:
    run, dev = (set(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["local"], *extras["mp3"], *extras["play"], *extras["fast"]]

    assert run <= dev
    assert {re.split(r"[\[<>=;]", one)[0] for one in asked} <= {name for name, _ in run}
