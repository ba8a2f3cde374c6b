"""The units of config/, as systemd reads them, and what the daemon's unit does with keys."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llm2ws.settings.fields import Server
from tests.support import ROOT

CONFIG = ROOT / "config"
UNITS = sorted(path.name for path in CONFIG.glob("llm2ws*") if path.suffix in (".service", ".socket"))
SERVICES = [name for name in UNITS if name.endswith(".service")]
# The worst exposure that is accepted, out of 10, in tenths: https://www.freedesktop.org/software/systemd/man/systemd-analyze.html
EXPOSURE = 15

systemd_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


def settings_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", (CONFIG / unit).read_text()).splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_there_are_three() -> None:
    assert UNITS == ["llm2ws-speech.service", "llm2ws.service", "llm2ws.socket"]


@systemd_analyze
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_say_about_it(unit: str, tmp_path: Path) -> None:
    """With programs that are there in place of those that scripts/install puts there."""
    for name in UNITS:
        text = (CONFIG / name).read_text()
        text = text.replace("/usr/local/bin/llm2ws", "/bin/true").replace("/usr/local/lib/llm2ws/llm2ws-keys", "/bin/true")
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@systemd_analyze
@pytest.mark.parametrize("unit", SERVICES)
def test_it_is_shut_in(unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", str(CONFIG / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_what_a_service_needs_to_live(unit: str) -> None:
    found = settings_of(unit)
    assert found["Type"] == ["notify"]
    assert found["KillMode"] == ["mixed"]  # or the engine would be told to end before the daemon has drained
    assert found["Restart"] == ["on-failure"]
    assert found["RestartPreventExitStatus"] == ["2"]  # of the table of exit codes
    assert {"WatchdogSec", "StartLimitBurst", "StartLimitIntervalSec"} <= set(found)
    assert int(found["LimitNOFILE"][0]) >= 65_536
    assert found["DynamicUser"] == ["yes"]


def test_systemd_listens_where_the_settings_say() -> None:
    assert settings_of("llm2ws.socket")["ListenStream"] == [Server().listen]


@pytest.mark.parametrize("names", [[], ["deepgram"], ["deepgram", "keys_of_all", "tls.key", "with space"]])
def test_keys_become_files_of_the_working_folder(tmp_path: Path, names: list[str]) -> None:
    given, folder = tmp_path / "given", tmp_path / "folder"
    given.mkdir()
    folder.mkdir()
    (folder / "taken-away").write_text("old")
    for name in names:
        (given / f"keys_{name}").write_text(name)
        (given / f"keys_{name}").chmod(0o400)

    for _ in range(2):  # again, when the service is reloaded
        subprocess.run([CONFIG / "llm2ws-keys"], cwd=folder, env={"CREDENTIALS_DIRECTORY": str(given)}, check=True)

    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in names}


def test_without_credentials_there_is_nothing_to_do(tmp_path: Path) -> None:
    subprocess.run([CONFIG / "llm2ws-keys"], cwd=tmp_path, env={}, check=True)
    assert list(tmp_path.iterdir()) == []
