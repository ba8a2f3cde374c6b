"""llm2ws as a service of a booted systemd. What is shown, point by point, is in scripts/try_systemd.py."""

from __future__ import annotations

import subprocess

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
