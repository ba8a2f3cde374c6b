"""Server-sent events and lines of JSON, decoded incrementally: bytes as they come, events as they are complete.

https://html.spec.whatwg.org/multipage/server-sent-events.html, and deviations of LLM servers from it.
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from ..errors import SourceError

__all__ = ["KEEP_ALIVES", "EventDecoder", "LineDecoder", "StreamEvent"]

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"

# Names of events that only keep a stream open.
KEEP_ALIVES = frozenset(("heartbeat", "keep-alive", "keep_alive", "keepalive", "ping"))


class StreamEvent(NamedTuple):
    """One event. `name` is "" if the stream gives none; `data` is the content of its `data:` lines, joined by line feeds."""

    name: str
    data: bytes


class EventDecoder:
    """A decoder of server-sent events, cut anywhere: call `feed` for each read, then `finish`.

    It reads bytes and not text: a character may be split over two reads, and a line end is never part of one. Lines end in
    LF, CRLF or CR. Comments, `id:`, `retry:` and events that keep the stream open are dropped; so are events without data,
    unless they have a name and `names` is true. The field `error:`, with which builds of llama.cpp through 2025 report a
    failure under status 200, is not in the standard. It gives an event named "error".

    The deviations from the standard that are understood depend on the `data`:

    - "json": comments are wrapped into data. Lines of JSON follow each other without an empty line; each is an event.
    - "text": if a server once writes no space after `data:`, it never does, and a space there belongs to the text. Line breaks
      of the text are written as they are, so that empty lines, empty data and lines without a field are text. Each line of
      data is given as soon as the next one shows that it is complete: some servers never write an empty line.
    - "outputs": texts of which each repeats those before it. They are read by the standard, except for that space.
    """

    def __init__(
        self,
        who: str = "the stream",
        *,
        data: Literal["json", "text", "outputs"] = "json",
        names: bool = False,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self._who = who  # For messages.
        self._is_json = data == "json"
        self._is_text = data == "text"
        self._names = names
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []  # An incomplete line. It is joined once, so that a long one costs no more per byte.
        self._name = ""
        self._data: list[bytes] = []
        self._held = 0  # Bytes since the read with the last empty line.
        self._at_start = True  # A byte order mark is still possible.
        self._after_cr = False  # A line feed that comes next belongs to the carriage return before it.
        self._in_event = False  # A line has come since the last empty one.
        self._begun = False  # Data has come.
        self._bare = False  # For text: the server writes no space after `data:`.
        self._given = False  # For text: a line of this event has been given.

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Return the events that these bytes complete.

        Raises SourceError if an event is longer than `max_event_bytes`, so that no server fills the memory.
        """
        if not (self._line or self._in_event or self._at_start or self._after_cr) and _is_one_event(data):
            self._begun = True
            event = self._event("", data[5 if self._bare else 6 : -2])
            return [event] if event is not None else []
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        events: list[StreamEvent] = []
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

    def finish(self) -> list[StreamEvent]:
        """Return the events left at the end. The empty line after the last one may be missing, as with llama.cpp."""
        rest = b"".join(self._line)
        self._line.clear()
        events = [self._take(rest) if rest else None, self._dispatch()]
        return [event for event in events if event is not None]

    def _take(self, line: bytes) -> StreamEvent | None:
        """Return the event that a line completes, None for none."""
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._in_event or not (self._is_text and self._begun):
                return self._dispatch()
            return StreamEvent("", b"\n")  # There is more than one empty line: they are part of the text.
        before, self._in_event = self._in_event, True
        if line.startswith(b"data:"):  # Nearly all lines.
            value = line[5:]
            self._bare = self._bare or (not self._is_json and value[:1] not in (b"", b" "))
            return self._add(value if self._bare else value.removeprefix(b" "))
        field, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"event" if colon:
                self._name = value.decode(errors="replace")
            case b"error" if colon:
                self._name = "error"
                return self._add(value)
            case b"data":  # Without a colon it is an empty line of data.
                return self._add(b"")
            case b"" | b"id" | b"retry" if colon:
                pass
            case _ if self._begun and self._is_text:
                return self._add(line if before else b"\n\n" + line)  # A line of a text that was written as it is.
        return None

    def _add(self, line: bytes) -> StreamEvent | None:
        """Take a line of data. Return the event before it, if the line shows that it is complete."""
        self._begun = True
        event = None
        if len(self._data) == 1:
            (last,) = self._data
            if self._is_text:
                event = self._event(self._name, last + b"\n")
                self._given = True
                self._data.clear()
            elif self._is_json and _is_whole(last):
                event = self._event(self._name, last)
                self._data.clear()
        self._data.append(line)
        return event

    def _dispatch(self) -> StreamEvent | None:
        event = None
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            is_break = self._is_text and not data and not self._given
            event = self._event(self._name, b"\n" if is_break else data)
        elif self._name and self._names:
            event = StreamEvent(self._name, b"")
        self._name = ""
        self._data.clear()
        self._held = 0
        self._in_event = False
        self._given = False
        return event

    def _event(self, name: str, data: bytes) -> StreamEvent | None:
        """Return an event, None for one that only keeps the stream open."""
        keeps_open = name.lower() in KEEP_ALIVES or (data.lstrip()[:1] in (b"", b":") if self._is_json else not data)
        return None if keeps_open else StreamEvent(name, data)


def _is_whole(line: bytes) -> bool:
    """Return whether a line of data can be an event by itself, for data that is JSON."""
    if line.strip() == b"[DONE]" or line.lstrip()[:1] in (b"", b":"):
        return True
    try:
        json.loads(line.decode(errors="replace"), strict=False)
    except ValueError:
        return False
    except RecursionError:  # It is nested too deep, and still an event by itself.
        return True
    return True


def _is_one_event(data: bytes) -> bool:
    """Return whether this is one line of data and the empty line after it, as nearly every read is."""
    return data.startswith(b"data: ") and data.endswith(b"\n\n") and 6 < data.find(b"\n") == len(data) - 2 and b"\r" not in data


class LineDecoder:
    """A decoder of lines with one JSON value each (newline-delimited JSON). Each is an event without a name.

    Empty lines and lines that begin with a colon only keep the stream open.
    """

    def __init__(self, who: str = "the stream", *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._who = who
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Return the lines that these bytes complete. Raises SourceError as `EventDecoder.feed` does."""
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
        return [StreamEvent("", line) for line in map(bytes.strip, lines) if line and not line.startswith(b":")]

    def finish(self) -> list[StreamEvent]:
        """Return the line left at the end."""
        return self.feed(b"\n")
