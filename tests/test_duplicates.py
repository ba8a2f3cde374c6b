"""What scripts/check looks for besides format, lint and types: code written twice. And what vendors' files must keep to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm2ws.speech.dialects import DIALECTS
from tests.support import ROOT

LOOP = """
async def read(stream, out):
    parts = []
    async for message in stream:
        for line in message.splitlines():
            if line and not line.startswith("#"):
                parts.append(line.strip())
            elif line:
                out.put(parts.pop())
    return parts
"""


def duplicates(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "duplicates.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_loop_with_other_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(LOOP)
    other = (
        LOOP.replace("parts", "kept").replace("message", "chunk").replace("line", "row").replace(".splitrows", ".splitlines")
    )
    (tmp_path / "other.py").write_text("import os\n" + other)
    done = duplicates(tmp_path)
    assert done.returncode == 1
    assert re.search(r"one\.py:\d+-\d+, .*other\.py:\d+-\d+", done.stdout)
    (tmp_path / "other.py").write_text(other.replace(".strip()", ".upper()"))
    assert duplicates(tmp_path).returncode == 0


SPEECH = ROOT / "llm2ws" / "speech"
SHARED = [
    path
    for folder in ("speech/session", "speech/utterance", "turn")
    for path in sorted((ROOT / "llm2ws" / folder).glob("*.py"))
]


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.name)
def test_what_all_vendors_share_names_none(path: Path) -> None:
    names = {name.partition("-")[0] for name in DIALECTS} | {"aura", "flux", "sonic"}
    text = path.read_text().lower()
    assert [name for name in names if name in text] == []


@pytest.mark.parametrize("name", [*DIALECTS, "described"])
def test_a_dialect_is_one_short_file(name: str) -> None:
    lines = (SPEECH / "dialects" / f"{name.replace('-', '_')}.py").read_text().splitlines()
    assert len(lines) < 200
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if re.match(r"\s*(async |while |class .*Session)", line)]
