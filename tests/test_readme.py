"""Every command and every block of code in the README is run as it is written; its tables say what the command says."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from llm2ws.settings import loading as config
from llm2ws.settings.llms import choose_llm
from tests.sources.asking import chunk
from tests.sources.replay import Reply, json_reply, replay
from tests.support import MS, ROOT, child_environment, run

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "sh"]
PYTHON = [text for language, text in BLOCKS if language == "python"]
TOML = [text for language, text in BLOCKS if language == "toml"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell that finds this llm2ws, as installed: the command, and the scripts of a clone."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "scripts").mkdir()
    for path, command in ((folder / "llm2ws", ""), (tmp_path / "scripts" / "say", "say ")):
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m llm2ws {command}"$@"\n')
        path.chmod(0o755)
    return child_environment({"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "LLM2WS_PLAY__DEVICE": "null"})


def test_there_are_blocks_of_every_kind_and_of_no_other() -> None:
    assert len(SHELL) + len(PYTHON) + len(TOML) == len(BLOCKS) == README.count("\n```\n")
    assert SHELL
    assert PYTHON
    assert TOML


@pytest.mark.parametrize("block", SHELL)
async def test_shell(tmp_path: Path, environment: dict[str, str], block: str) -> None:
    """With a server in place of Ollama's."""
    if block.startswith(("sudo ", "docker ")):  # scripts/try_systemd and tests/test_docker.py run it in systems of its own
        return
    models = json_reply(200, {"data": [{"id": "llama3.2:latest"}]})
    answer = Reply([chunk("Because of the air. "), chunk("It scatters light."), chunk(reason="stop"), b"data: [DONE]\n\n"])
    async with replay(models, answer) as server:
        await asyncio.to_thread(run_shell, tmp_path, environment, block.replace("http://127.0.0.1:11434", server.url))


def run_shell(tmp_path: Path, environment: dict[str, str], block: str) -> None:
    for script in re.findall(r"^(scripts/\w+)", block, re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK)
    if block == "scripts/test --all\n":  # which is what runs this
        return
    process = subprocess.Popen(
        ["sh", "-eu", "-c", block],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        code = process.wait(40_000 * MS)
    finally:
        if "&\n" in block:  # a server in the background
            os.killpg(process.pid, signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert code == 0, stderr.decode()
    for name in re.findall(r"-o (\w+\.\w+)", block):
        assert (tmp_path / name).stat().st_size > 4_000, name
    if "--json" in block:
        assert b'"event": "done"' in stdout
        assert b"a full stop before a capital" in stdout


@pytest.mark.parametrize("block", PYTHON)
def test_python(tmp_path: Path, environment: dict[str, str], block: str) -> None:
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", block], cwd=tmp_path, env=environment, check=True)
    with wave.open(str(tmp_path / "sky.wav")) as file:
        assert 1.0 < file.getnframes() / file.getframerate() < 4.0


@pytest.mark.parametrize("block", TOML)
def test_settings(tmp_path: Path, block: str) -> None:
    (tmp_path / "s.toml").write_text(block)
    settings = config.load(config=str(tmp_path / "s.toml"), environ={}).settings
    (tmp_path / "deepgram.key").write_text("a-key\n")

    done = run(
        ["say", "Hello.", "--config", "s.toml", "--llm", "echo", "-o", "o.wav"],
        cwd=tmp_path,
        env={"LLM2WS_SPEECH__MAIN__URL": "ws://127.0.0.1:9"},
    )

    assert settings.default_speech in settings.speech
    assert choose_llm(settings)[1].kind == "openai"
    assert done.code == 0, done.stderr
    assert (tmp_path / "o.wav").stat().st_size > 4_000


def test_every_flag_of_say_is_in_the_table(tmp_path: Path) -> None:
    text = run(["say", "--help"], cwd=tmp_path).stdout.decode()
    rows = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    flags = set(re.findall(r"--[a-z-]+", text.partition("Exit codes")[0])) - {"--help"}
    assert {flag for flag in flags if flag not in rows} == set()
    assert set(re.findall(r"--[a-z-]+", rows)) <= flags


def test_exit_codes_are_those_of_the_help(tmp_path: Path) -> None:
    text = run(["say", "--help"], cwd=tmp_path).stdout.decode()
    codes = re.findall(r"^ +(\d+) {2}", text, re.MULTILINE)
    assert codes == re.findall(r"^\| (\d+) \|", README, re.MULTILINE) == ["0", "1", "2", "3", "4", "5", "130"]


def test_files_that_are_named_are_there() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name


def test_measurements_that_are_named_are_there() -> None:
    names = re.findall(r"\| `(\w+)` \|$", README.partition("## Measured")[2].partition("\n## ")[0], re.MULTILINE)
    assert len(names) > 5
    assert all((ROOT / "scripts" / f"bench_{name}.py").exists() for name in names)
