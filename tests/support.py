"""What the tests share: a stretchable unit of time, the canary search, and llm2ws as a real process."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CANARY",
    "MS",
    "ROOT",
    "SCRUBBED",
    "SOAK_S",
    "Finished",
    "assert_no_canary",
    "child_environment",
    "has_canary",
    "repository_files",
    "run",
    "start",
    "texts_of",
]

ROOT = Path(__file__).resolve().parent.parent

# Every time in a test is a multiple of this. On a slow machine LLM2WS_TEST_SCALE=5 stretches them all.
MS = 0.001 * float(os.environ.get("LLM2WS_TEST_SCALE", "1"))

# How long the soak lasts.
SOAK_S = float(os.environ.get("LLM2WS_TEST_SOAK_S", "60"))

# In every credential of the tests (fixture `canary`), new in each run, and nowhere else.
CANARY = "canary" + secrets.token_hex(8)

# Settings of the developer's machine that would reach the tests, or the tests them.
SCRUBBED = re.compile(r"(?i)(LLM2WS|OPENAI|ANTHROPIC|DEEPGRAM|ELEVENLABS|CARTESIA|OLLAMA)_.*|([a-z]+_)?proxy")


def has_canary(text: str | bytes) -> bool:
    """Whether a credential is in it."""
    if isinstance(text, bytes):
        return CANARY.encode() in text
    return CANARY in text


def assert_no_canary(text: str | bytes, where: str = "the text") -> None:
    """Fails, without showing it, when a credential is in `text`."""
    __tracebackhide__ = True
    if has_canary(text):
        raise AssertionError(f"a credential leaked into {where}")


def texts_of(error: BaseException) -> Iterator[str]:
    """All that a log or a person could see of an exception: text and repr, of its causes and members too."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), *map(str, getattr(one, "__notes__", ())))
        queue += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            queue += one.exceptions


class Finished(NamedTuple):
    """What a process left."""

    code: int
    stdout: bytes
    stderr: str


def child_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the settings of the machine, the package importable, and `env` on top."""
    kept = {name: value for name, value in os.environ.items() if not SCRUBBED.fullmatch(name)}
    return kept | {"PYTHONPATH": str(ROOT)} | dict(env or {})


def start(
    args: Sequence[str | Path],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """llm2ws as a process, in its own session: signals sent to the tests do not reach it.

    The caller waits for its end, and passes what it wrote to `assert_no_canary`.
    """
    command = [sys.executable, "-P", "-m", "llm2ws", *map(str, args)]
    return subprocess.Popen(
        command, cwd=cwd, env=child_environment(env), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
    )


def run(
    args: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    input: bytes | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 30_000 * MS,
    traceback_allowed: bool = False,
) -> Finished:
    """llm2ws as a process, from start to end. `input` None means an empty standard input, `cwd` None an empty folder.

    Fails when a credential is in what it wrote, when it showed a traceback, and after `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as empty, start(args, cwd=cwd or Path(empty), env=env, stdin=subprocess.PIPE) as process:
        try:
            stdout, stderr = process.communicate(input.encode() if isinstance(input, str) else input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert_no_canary(stdout, "standard output")
    assert_no_canary(stderr, "standard error")
    text = stderr.decode(errors="replace")
    assert traceback_allowed or "Traceback" not in text, f"a traceback on standard error:\n{text}"
    return Finished(process.returncode, stdout, text)


_MADE = {".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__", "dist"}
_MADE |= {"PKG-INFO"}  # of a release


def repository_files() -> list[Path]:
    """The files that git tracks; without git, all that are there but what programs make."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        found = ((path, path.relative_to(ROOT).parts) for path in ROOT.rglob("*"))
        paths = [path for path, parts in found if _MADE.isdisjoint(parts) and not parts[0].startswith(".venv")]
    return [path for path in paths if path.is_file()]
