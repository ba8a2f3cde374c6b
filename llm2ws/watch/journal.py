"""Log lines as entries of systemd's journal, with fields to search by: `journalctl -u llm2ws -p warning LLM2WS_TURN=…`.

The protocol is journald's own datagram, https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Lines on standard error reach the journal
as well, but without priority and fields.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Mapping
from typing import IO

__all__ = ["JournalHandler", "is_journal"]

_ADDRESS = "/run/systemd/journal/socket"
_SEND_S = 0.2  # how long a record may wait for the journal: a stuck journal must not hold up speech
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
_TEXT = logging.Formatter()  # the message, and the traceback where there is one


def is_journal(stream: IO[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a stream goes to the journal. systemd sets the device and inode that it connected in JOURNAL_STREAM."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):  # the stream is no file
        return False
    return environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


class JournalHandler(logging.StreamHandler[IO[str]]):
    """Sends records to the journal; to `stream` what the journal does not take."""

    def __init__(self, stream: IO[str], address: str = _ADDRESS) -> None:
        super().__init__(stream)
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_S)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(_entry(record), self._address)
        except OSError:  # the journal is being restarted, or the line is longer than a datagram
            super().emit(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _entry(record: logging.LogRecord) -> bytes:
    fields = {
        "MESSAGE": _TEXT.format(record),
        "PRIORITY": next(priority for level, priority in _PRIORITIES if record.levelno >= level),
        "SYSLOG_IDENTIFIER": "llm2ws",
        "LLM2WS_LOGGER": record.name,
        "LLM2WS_TURN": getattr(record, "turn", ""),
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
        **{f"LLM2WS_{name.upper()}": value for name, value in getattr(record, "facts", {}).items()},
    }
    return b"".join(_field(name, str(value).encode(errors="replace")) for name, value in fields.items() if value != "")


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(value)), value)
    return b"%b=%b\n" % (name.encode(), value)
