"""What must not be in the repository: machines, registries, secrets' files; that the lock files lock; what a release holds."""

from __future__ import annotations

import re
import tomllib

import pytest
from flit_core.sdist import SdistBuilder

from tests.support import ROOT, repository_files

# Put together here, so that this file does not hold them itself.
FORBIDDEN = [
    *("py" + "pi.org", "python" + "hosted.org", "registry.npm" + "js", "proxy.go" + "lang"),
    *("/ro" + "ot/", "/wo" + "rk/", "/op" + "t/", "/home" + "/", "file" + ":///"),
]
LOCKS = ("requirements.lock", "requirements-dev.lock")


def test_no_file_names_a_registry_or_a_place_on_some_machine() -> None:
    found = []
    for path in repository_files():
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


def test_a_release_holds_the_repository() -> None:
    builder = SdistBuilder.from_ini_path(ROOT / "pyproject.toml")

    packed = builder.apply_includes_excludes(builder.select_files())
    assert {str(path.relative_to(ROOT)) for path in repository_files()} <= set(packed)
    assert [path for path in packed if path.startswith(("secrets/", ".env"))] == [".env.example", "secrets/.gitignore"]
