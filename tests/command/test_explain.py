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


def test_explain_shows_what_is_left_out(tmp_path: Path) -> None:
    text = "Hello <think>a secret plan</think> **world**. ![a small map](x.png)\n\n<!-- a note"
    lines = [json.loads(line) for line in run(["explain", text, "--json"], cwd=tmp_path).stdout.splitlines()]
    left_out = [line for line in lines if "left_out" in line]
    assert all(text[slice(*line["left_out"])].strip() == line["text"] for line in left_out)
    together = " ".join(line["text"] for line in left_out)
    assert all(part in together for part in ("a secret plan", "a small map", "a note"))
    assert "world" not in together
    spoken = "".join(line["text"] for line in lines if "index" in line)
    assert spoken.split() == ["Hello", "world."]
    shown = run(["explain", text], cwd=tmp_path).stdout.decode()
    assert re.search(r'^    left out  "<think>a secret plan</think> \*\*"  \d+-\d+$', shown, re.MULTILINE)
