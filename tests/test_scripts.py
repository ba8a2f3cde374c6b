"""The scripts as the first command in a fresh checkout, on machines that lack things."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import MS, ROOT, repository_files

# What a POSIX machine has at least; a folder of these is a PATH without any Python.
COREUTILS = ("cat", "cksum", "dirname", "env", "id", "mkdir", "readlink", "rm", "sh", "tr")
# Names the installers read: the package index may be set there.
KEPT = ("PIP_", "UV_", "SSL_CERT_")


def checkout(folder: Path) -> Path:
    """A copy of the repository as `git clone` would leave it, but without .git."""
    for path in repository_files():
        to = folder / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return folder


def script(
    command: list[str | Path], path: str, *, cwd: Path, env: Mapping[str, str] | None = None, uid: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script with next to nothing in its environment: no HOME, no locale."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    return subprocess.run(
        command,
        cwd=cwd,
        env=kept | {"PATH": path} | dict(env or {}),
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        capture_output=True,
        text=True,
        check=False,
        timeout=240_000 * MS,
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder to be the whole PATH: the core utilities and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in COREUTILS:
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.13" if THIS == "3.12" else "3.12"
RUNS = f'exec "{sys.executable}" "$@"'
SHIM = "exit 127"  # what pyenv has on PATH for each Python, and answers where it is not chosen


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        (None, "Python 3.11 or later is needed"),
        ("exit 1", "Python 3.11 or later is needed"),  # an older one says no when it is asked
        # Debian's python3 without python3-venv: there, but ensurepip cannot be imported.
        (f'case "$2" in *ensurepip*) exit 1;; esac; {RUNS}', "apt install python3-venv"),
    ],
    ids=["no Python", "old Python", "no venv module"],
)
def test_what_the_machine_lacks_is_said_in_one_line(bare: Path, tmp_path: Path, python: str | None, sentence: str) -> None:
    if python is not None:
        program(bare / "python3", python)

    done = script([checkout(tmp_path / "clone") / "scripts" / "say", "Hello."], str(bare), cwd=tmp_path)

    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def found(version: str, path: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What scripts/env.sh finds for a version of Python."""
    command: list[str | Path] = [
        "sh",
        "-c",
        '. "$1" && find_python "$2"',
        ROOT / "scripts" / "test",
        ROOT / "scripts" / "env.sh",
    ]
    return script([*command, version], str(path), cwd=path, env=env)


@pytest.mark.parametrize("where", ["PATH", "pyenv", "uv", "tools"])
def test_a_python_is_found_where_it_may_be_and_only_if_it_runs(bare: Path, tmp_path: Path, where: str) -> None:
    folders = {
        "PATH": bare / f"python{THIS}",
        "pyenv": tmp_path / "pyenv" / "versions" / f"{THIS}.1" / "bin" / "python",
        "uv": tmp_path / "uv" / f"cpython-{THIS}.1-linux-x86_64-gnu" / "bin" / "python3",
        "tools": tmp_path / "tools" / "Python" / f"{THIS}.1" / "x64" / "bin" / "python",
    }
    env = {
        "PYENV_ROOT": str(tmp_path / "pyenv"),
        "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uv"),
        "RUNNER_TOOL_CACHE": str(tmp_path / "tools"),
    }
    for path in folders.values():
        program(path, SHIM)
    assert found(THIS, bare, env).returncode == 1
    program(folders[where], RUNS)

    assert found(THIS, bare, env).stdout == f"{sys.executable}\n"
    assert found("3.99", bare, env).returncode == 1


@pytest.mark.parametrize("other", [["--python", OTHER], ["--python", "3.10"], ["--python"]], ids=["absent", "too old", "none"])
def test_a_python_that_cannot_be_had_is_said_in_one_line(bare: Path, tmp_path: Path, other: list[str]) -> None:
    program(bare / f"python{OTHER}", SHIM)
    program(bare / f"python{THIS}", RUNS)

    done = script([checkout(tmp_path / "clone") / "scripts" / "test", *other, "--all"], str(bare), cwd=tmp_path)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert (f"found: {THIS})" if OTHER in other else "one of 3.11 3.12 3.13 3.14") in done.stderr
    assert done.stdout == ""


def test_bench_lists_what_there_is(tmp_path: Path) -> None:
    done = script([ROOT / "scripts" / "bench"], os.environ["PATH"], cwd=tmp_path)

    assert done.returncode == 2
    assert "startup" in done.stderr
    assert "#!" not in done.stderr  # each with what its docstring says


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


@pytest.mark.install
@pytest.mark.timeout(600)
def test_say_is_the_first_command_in_a_long_path_without_home_and_with_dead_proxies(bare: Path, tmp_path: Path) -> None:
    program(bare / "python3", RUNS)
    clone = checkout(tmp_path / ("a long ü " + "x" * (180 - len(str(tmp_path)))) / "llm2ws")
    dead = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command: list[str | Path] = [clone / "scripts" / "say", "Hello. This is llm2ws speaking.", "-o", "out.wav"]

    first = script(command, str(bare), cwd=tmp_path, env=dead)
    again = script(command, str(bare), cwd=tmp_path, env=dead)

    assert len(os.fsencode(clone)) > 180
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert "preparing the Python environment" in first.stderr
    assert "preparing" not in again.stderr
    assert 1.5 < seconds(tmp_path / "out.wav") < 5


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Unlike tmp_path, one that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.install
@pytest.mark.root
@pytest.mark.timeout(600)
def test_say_by_another_user_in_a_checkout_that_cannot_be_written_to(public_folder: Path) -> None:
    nobody = 65534
    clone = checkout(public_folder / "clone")
    out = public_folder / "out"
    out.mkdir()
    os.chown(out, nobody, nobody)
    command: list[str | Path] = [clone / "scripts" / "say", "Hello. This is llm2ws speaking.", "-o", "out.wav"]

    done = script(command, "/usr/local/bin:/usr/bin:/bin", cwd=out, env={"TMPDIR": str(out)}, uid=nobody)

    assert done.returncode == 0, done.stderr
    assert not (clone / ".venv").exists()
    assert 1.5 < seconds(out / "out.wav") < 5
