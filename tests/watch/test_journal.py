"""Log lines in systemd's journal: fields as journald reads them, from a real datagram socket."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.watch import log
from llm2ws.watch.journal import JournalHandler, _entry, is_journal


def parsed(entry: bytes) -> dict[str, str]:
    """As https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ says."""
    fields = {}
    while entry:
        name, found, rest = entry.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            assert found
            (size,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest.startswith(b"\n")
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        entry = rest
    return fields


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("llm2ws")
    before = (root.level, own.level, list(root.handlers))
    yield
    for handler in set(root.handlers) - set(before[2]):
        handler.close()
    root.setLevel(before[0])
    own.setLevel(before[1])
    root.handlers[:] = before[2]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """journald's socket, where the handler looks for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.settimeout(20)
        one.bind(str(tmp_path / "journal"))
        monkeypatch.setattr(JournalHandler.__init__, "__defaults__", (str(tmp_path / "journal"),))
        yield one


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """A standard error that systemd says it has connected to the journal."""
    with (tmp_path / "stderr").open("w+") as file:
        there = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        yield file


def written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def test_the_facts_of_a_turn_are_fields_of_its_entry(journal: socket.socket, stream: io.TextIOWrapper) -> None:
    log.configure("info", stream=stream)
    log.log_turn(logging.getLogger("llm2ws.turn"), {"outcome": "done", "first_token_s": 0.60849, "delayed": None})
    fields = parsed(journal.recv(65_536))
    assert (fields["LLM2WS_OUTCOME"], fields["LLM2WS_FIRST_TOKEN_S"]) == ("done", "0.608")
    assert fields["MESSAGE"] == "turn outcome=done first_token_s=0.608"
    assert "LLM2WS_DELAYED" not in fields


def test_an_entry_has_priority_logger_turn_and_place(journal: socket.socket, stream: io.TextIOWrapper) -> None:
    log.configure("debug", stream=stream)
    with log.turn_id("ab12"):
        logging.getLogger("llm2ws.pool").warning("lost %d", 3)
    fields = parsed(journal.recv(65_536))

    assert fields == {
        "MESSAGE": "lost 3",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "llm2ws",
        "LLM2WS_LOGGER": "llm2ws.pool",
        "LLM2WS_TURN": "ab12",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_entry_has_priority_logger_turn_and_place",
        "CODE_LINE": fields["CODE_LINE"],
    }
    assert written(stream) == ""


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
)
def test_levels_are_priorities(journal: socket.socket, stream: io.TextIOWrapper, level: str, priority: str) -> None:
    log.configure("debug", stream=stream)
    getattr(logging.getLogger("llm2ws"), level)("x")
    fields = parsed(journal.recv(65_536))
    assert fields["PRIORITY"] == priority
    assert "LLM2WS_TURN" not in fields


def test_a_traceback_is_part_of_the_message(journal: socket.socket, stream: io.TextIOWrapper) -> None:
    log.configure("info", stream=stream)
    try:
        raise ValueError(5)
    except ValueError:
        logging.getLogger("llm2ws").exception("it failed")
    lines = parsed(journal.recv(65_536))["MESSAGE"].splitlines()
    assert (lines[0], lines[-1]) == ("it failed", "ValueError: 5")


@given(st.text())
def test_any_text_is_read_as_it_was_written(text: str) -> None:
    record = logging.LogRecord("llm2ws", logging.INFO, "file.py", 1, text, None, None)
    fields = parsed(_entry(record))
    assert fields["MESSAGE"] == text.encode(errors="replace").decode() if text else "MESSAGE" not in fields
    assert fields["CODE_FILE"] == "file.py"


def test_what_the_journal_does_not_take_goes_to_standard_error(journal: socket.socket, stream: io.TextIOWrapper) -> None:
    log.configure("info", stream=stream)
    logging.getLogger("llm2ws").info("x" * 1_000_000)  # longer than a datagram
    journal.close()
    logging.getLogger("llm2ws").info("nobody listens")
    lines = [json.loads(line)["event"] for line in written(stream).splitlines()]
    assert [len(lines[0]), lines[1]] == [1_000_000, "nobody listens"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_form_that_was_asked_for_is_not_replaced(journal: socket.socket, stream: io.TextIOWrapper, form: str) -> None:
    log.configure("info", form, stream=stream)
    logging.getLogger("llm2ws").info("as text")
    assert "as text" in written(stream)
    journal.settimeout(0)
    with pytest.raises(BlockingIOError):
        journal.recv(1)


def test_another_file_is_not_the_journal(stream: io.TextIOWrapper, tmp_path: Path) -> None:
    assert is_journal(stream)
    assert not is_journal(stream, {})
    assert not is_journal(io.StringIO())
    with (tmp_path / "other").open("w") as other:  # 2>file, below a unit
        assert not is_journal(other)


def test_standard_error_of_a_terminal_is_none() -> None:
    assert not is_journal(sys.__stderr__ or io.StringIO(), {"JOURNAL_STREAM": "0:0"})
