"""`llm2ws explain`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import run


def test_explain_gives_every_fragment_its_reason_and_what_was_waited_for(tmp_path: Path) -> None:
    text = "Hello Dr. Smith. That is 3.5 km. Bye"
    done = run(["explain", text, "--json"], cwd=tmp_path)
    cuts = [json.loads(line) for line in done.stdout.splitlines()]
    assert "".join(cut["text"] for cut in cuts) == text
    assert [cut["boundary"] for cut in cuts] == ["sentence", "sentence", "end"]
    assert all(cut["why"] for cut in cuts)
    assert cuts[0]["held"][0]["after"].endswith("Dr.")


@pytest.mark.parametrize("how", ["argument", "stdin", "dash", "file"])
def test_explain_reads_from_anywhere(tmp_path: Path, how: str) -> None:
    (tmp_path / "t.txt").write_text("One. Two.")
    args = {"argument": ["One. Two."], "stdin": [], "dash": ["-"], "file": ["-f", "t.txt"]}[how]
    done = run(["explain", *args, "--policy", "sentence"], cwd=tmp_path, input="One. Two.")
    assert re.search(r'0 sentence +"One\." +0-4: ', done.stdout.decode())
