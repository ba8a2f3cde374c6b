"""llm2ws as a service of a booted systemd. What is shown, point by point, is in scripts/try_systemd.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import MS, ROOT

CANNOT = 77  # the script's word for a machine where it cannot be tried


@pytest.mark.install
@pytest.mark.root
@pytest.mark.timeout(900)
def test_as_a_service_of_a_real_systemd() -> None:
    done = subprocess.run([ROOT / "scripts" / "try_systemd"], capture_output=True, text=True, check=False, timeout=840_000 * MS)
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(shown) == 14, done.stdout


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "llm2ws: a service is installed by root: sudo scripts/install\n"),
        (["--purge"], 2, "llm2ws: a service is installed by root: sudo scripts/install --purge\n"),
        (["--remove"], 2, "llm2ws: --remove is not known: scripts/install [--uninstall | --purge]\n"),
        (["--help"], 0, ""),
    ],
)
def test_who_is_not_root_is_told_what_to_type(args: list[str], code: int, says: str) -> None:
    nobody = 65_534 if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:  # a folder that others may enter, unlike tmp_path
        folder = Path(name)
        folder.chmod(0o755)
        for script in ("install", "env.sh"):
            shutil.copy(ROOT / "scripts" / script, folder)
        done = subprocess.run(
            [folder / "install", *args],
            capture_output=True,
            text=True,
            check=False,
            user=nobody,
            group=nobody,
            extra_groups=None if nobody is None else [],
            cwd="/",
        )
    assert (done.returncode, done.stderr) == (code, says)
    assert ("--uninstall" in done.stdout) == (code == 0)
