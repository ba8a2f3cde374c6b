"""Server-sent events and lines of JSON, incrementally: bytes as they come off a connection, events as they are complete.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, with what servers of language models need besides.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import SourceError

__all__ = ["Decoder", "Event", "Lines"]

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event. `name` is "" where the stream gave none; `data` is what its `data:` lines held, joined by line feeds."""

    name: str
    data: bytes


class Decoder:
    """Bytes in, events out, however the bytes are cut: `feed` each read, then `finish`.

    Bytes and not text: a character may be split over two reads, and a line end is never part of one. Lines end in LF, CRLF or
    CR. Comments, `id:`, `retry:` and events without data are dropped. An `error:` field is not in the standard: builds of
    llama.cpp through 2025 say with it, under status 200, that they failed. It gives an event named "error".
    """

    def __init__(self, who: str = "the stream", *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._who = who  # for messages
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []  # a line that is not complete: joined once, so that a long one costs no more per byte
        self._name = ""
        self._data: list[bytes] = []
        self._held = 0  # bytes since the last empty line, without those after it in the same read
        self._at_start = True  # a byte order mark is still possible
        self._after_cr = False  # a line feed that comes next belongs to the carriage return before it

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises SourceError when more than `max_event_bytes` have come and no event was complete: no server fills the memory.
        """
        if not (self._line or self._data or self._name or self._at_start or self._after_cr) and _is_one_event(data):
            return [Event("", data[6:-2])]
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        events: list[Event] = []
        if not data:
            return events
        self._held += len(data)
        self._after_cr = data.endswith(b"\r")
        lines = data.splitlines()
        rest = b"" if data[-1] in b"\r\n" else lines.pop()
        if lines and self._line:
            lines[0] = b"".join((*self._line, lines[0]))
            self._line.clear()
        events += [event for line in lines if (event := self._take(line)) is not None]
        if rest:
            self._line.append(rest)
        if self._held > self._max_event_bytes:
            raise SourceError(f"{self._who}: sent an event of more than {self._max_event_bytes} bytes")
        return events

    def finish(self) -> list[Event]:
        """The stream has ended: what is left. The empty line after the last event may be missing, as with llama.cpp."""
        rest = b"".join(self._line)
        self._line.clear()
        events = [self._take(rest) if rest else None, self._take(b"")]
        return [event for event in events if event is not None]

    def _take(self, line: bytes) -> Event | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):  # nearly all lines
            self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
        elif not line:
            return self._dispatch()
        else:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            match field:
                case b"event":
                    self._name = value.decode(errors="replace")
                case b"error":
                    self._name = "error"
                    self._data.append(value)
                case b"data":  # without a colon: an empty line of data
                    self._data.append(b"")
        return None

    def _dispatch(self) -> Event | None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = Event(self._name, data) if data else None
        self._name = ""
        self._data.clear()
        self._held = 0
        return event


def _is_one_event(data: bytes) -> bool:
    """Whether this is one line of data and the empty line after it: nearly every read from a model that is writing."""
    return data.startswith(b"data: ") and data.endswith(b"\n\n") and 6 < data.find(b"\n") == len(data) - 2 and b"\r" not in data


class Lines:
    """The same from lines that hold one JSON value each (newline-delimited JSON): an event without a name for each."""

    def __init__(self, who: str = "the stream", *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._who = who
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[Event]:
        """The lines that these bytes complete. Raises SourceError as `Decoder.feed` does."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._line, lines[0]))
            self._line.clear()
            self._held = 0
        if rest:
            self._line.append(rest)
            self._held += len(rest)
        if self._held > self._max_event_bytes:
            raise SourceError(f"{self._who}: sent an event of more than {self._max_event_bytes} bytes")
        return [Event("", line) for line in map(bytes.strip, lines) if line]

    def finish(self) -> list[Event]:
        """The stream has ended: what is left."""
        return self.feed(b"\n")
