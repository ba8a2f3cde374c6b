"""What a command shows on standard output and standard error."""

from __future__ import annotations

import json
import os
import pty
import re
import termios
from pathlib import Path

from tests.command.spoken import NULL
from tests.support import run, start


def test_json_events(tmp_path: Path) -> None:
    done = run(["say", "Hello there. It is **me**.", "--no-play", "--json"], cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", "said", "said", "done"]
    assert events[1]["span"] == [0, 12]
    assert "".join(event["text"] for event in events[1:3]) == "Hello there. It is me. "
    assert events[-1]["outcome"] == "done"
    assert 0 <= events[-1]["stats"]["first_speak_s"] <= events[-1]["stats"]["first_audio_s"]


def test_an_error_is_an_event_too(tmp_path: Path) -> None:
    done = run(["say", "x", "--json", "-o", "no/x.wav"], cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "event": "error",
        "error": "SinkError",
        "what": "no/x.wav: no such file or directory",
        "hint": "make its folder first",
    }


def test_quiet_is_quiet(tmp_path: Path) -> None:
    done = run(["say", "Hello.", "-o", "o.wav", "-q"], cwd=tmp_path)
    assert (done.code, done.stdout, done.stderr) == (0, b"", "")


def test_verbose_logs_on_standard_error(tmp_path: Path) -> None:
    done = run(["say", "Hello.", "-o", "o.wav", "-v"], cwd=tmp_path)
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert len({line["turn"] for line in lines}) == 1
    assert "{" not in run(["say", "Hello.", "-o", "o.wav"], cwd=tmp_path).stderr


def test_a_terminal_shows_words_and_time_and_no_audio(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 100))
    with start(["say", "Hello there. It is me."], cwd=tmp_path, env=NULL, stdin=child, stdout=child, stderr=child) as process:
        os.close(child)
        shown = b""
        try:
            while data := os.read(parent, 4_096):
                shown += data
        except OSError:  # the other end is closed
            pass
        os.close(parent)
        assert process.wait() == 0
    lines = [line.strip() for line in shown.decode().split("\r\x1b[K") for line in line.splitlines()]
    assert lines[0].startswith("llm2ws: echo answers with the prompt itself, the embedded endpoint speaks")
    assert any(re.fullmatch(r"[\d.]+ s, [\d.]+ s of audio, [\d.]+ s buffered", line) for line in lines)
    assert lines.index("Hello there.") < lines.index("It is me.")
    assert re.match(r"llm2ws: [\d.]+ s of audio; after so many seconds: first token [\d.]+, .*first audio [\d.]+", lines[-1])


def test_audio_is_not_sent_to_a_terminal(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    with start(["say", "Hello.", "-o", "-"], cwd=tmp_path, stdout=child) as process:
        os.close(child)
        assert process.stderr
        assert "standard output is a terminal: send the audio to a pipe" in process.stderr.read().decode()
        assert process.wait() == 2
    os.close(parent)
