"""The tests' own safety net catches what it is there for: a run of tests that each do one thing wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, child_environment, texts_of

WRONG = """
import asyncio, logging, socket, subprocess, sys
import pytest
kept = []

async def test_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))

def test_socket():
    kept.append(socket.socket())

def test_process():
    kept.append(subprocess.Popen(["sleep", "1"]))

def test_stdout(canary):
    print(canary())

def test_output_of_a_child(canary, capfd):
    subprocess.run(["sh", "-c", "echo $0 >&2", canary()], check=True)
    capfd.readouterr()

def test_debug_log(canary):
    logging.getLogger("websockets.client").debug("> %s: %s", "Authorization", canary())

def test_expected_error(canary):
    with pytest.raises(ValueError):
        raise ValueError(canary())

def test_expected_group(canary):
    with pytest.RaisesGroup(ValueError):
        raise ExceptionGroup("", [ValueError(canary())])

def test_cause_of_an_error(canary):
    try:
        raise ValueError(canary())
    except ValueError:
        raise KeyError from None

def test_skip():
    pytest.skip("no moon")

@pytest.mark.soak
def test_later():
    raise RuntimeError
"""
RIGHT = """
import asyncio, logging

async def test_right(canary):
    logging.getLogger().debug(repr(len(canary())))
    assert asyncio.get_running_loop().get_debug()
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
"""


def pytest_run(folder: Path, text: str, *options: str) -> tuple[int, str]:
    """pytest, as a process of its own with our conftest, on one file; its exit code and what it printed."""
    file = folder / "test_made.py"
    file.write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-rA",
        "-p",
        "no:cacheprovider",
    ]
    env = child_environment({"LLM2WS_TEST_STRICT": "1"})
    done = subprocess.run([*command, *options, str(file)], env=env, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_every_wrong_is_named(tmp_path: Path) -> None:
    code, output = pytest_run(tmp_path, WRONG)

    assert code == pytest.ExitCode.TESTS_FAILED
    expected = {
        "test_task": "left behind: task",
        "test_socket": "left behind: socket",
        "test_process": "left behind: process",
        "test_stdout": "leaked into Captured stdout",
        "test_output_of_a_child": "leaked into standard error",
        "test_debug_log": "leaked into Captured log",
        "test_expected_error": "leaked into a ValueError",
        "test_expected_group": "leaked into a ExceptionGroup",
        "test_cause_of_an_error": "leaked into the KeyError",
    }
    for test, what in expected.items():
        assert re.search(rf"(FAILED|ERROR) \S*::{test}\b", output), f"{test} passed"
        assert what in output
    assert re.search(r"NOT in tests/allowed_skips.txt: \S*::test_skip: no moon", output)
    assert "1 skipped, 1 deselected" in output


def test_an_unlisted_skip_alone_fails_the_run(tmp_path: Path) -> None:
    code, output = pytest_run(tmp_path, "import pytest\npytest.skip('no moon', allow_module_level=True)\n", "--all")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "no moon" in output


def test_a_clean_test_passes(tmp_path: Path) -> None:
    code, output = pytest_run(tmp_path, RIGHT)

    assert code == pytest.ExitCode.OK, output


def test_texts_of_reaches_causes_notes_and_members() -> None:
    inner = ValueError("inner")
    inner.add_note("note")
    inner.__cause__ = KeyError("cause")
    error = ExceptionGroup("outer", [inner])

    texts = " ".join(texts_of(error))

    assert all(word in texts for word in ("inner", "note", "cause", "outer"))
