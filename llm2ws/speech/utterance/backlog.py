"""Text that waits to be sent: fragments made into texts that an endpoint can take.

A text without a letter or digit goes along with a neighbour: by itself it has no sound, and a Flush of it alone no answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ...text.fragments import Boundary, Fragment

__all__ = ["Backlog", "Text"]


@dataclass(slots=True)
class Text:
    """One Speak, and the span of the model's text that it stands for."""

    text: str
    start: int
    end: int

    @property
    def speakable(self) -> bool:
        return any(map(str.isalnum, self.text))


class Backlog:
    """Fragments in; texts to send out.

    `exact`: texts are as the fragments are; else each that ends a word ends in one space. `max_chars`: no text is longer, None
    for any length.
    """

    def __init__(self, *, exact: bool = False, max_chars: int | None = None) -> None:
        self.texts: deque[Text] = deque()  # oldest first; `pop` takes them
        self.chars = 0  # of them
        self.left_out_chars = 0  # of texts that had no neighbour to go with
        self._exact = exact
        self._max_chars = max_chars
        self._carry: Text | None = None  # without letter or digit: goes in front of the next text
        self._separate = False  # the last text ended with no separator, so the next keeps its own

    def add(self, fragment: Fragment) -> None:
        """Take a fragment."""
        text = Text(self._sendable(fragment), fragment.start, fragment.end)
        if self._carry is not None:
            text, self._carry = self._joined(self._carry, text), None
        if text.speakable:
            self._push(text)
        elif self.texts:
            last = self.texts.pop()
            self.chars -= len(last.text)
            self._push(self._joined(last, text))
        else:
            self._carry = text

    def finish(self, *, joinable: bool) -> None:
        """There is no more text. `joinable`: what comes last may go along with text that was sent before it."""
        if self._carry is not None:
            if joinable:
                self._push(self._carry)
            else:
                self._leave_out(self._carry)
            self._carry = None

    def pop(self) -> Text:
        """Take the oldest."""
        text = self.texts.popleft()
        self.chars -= len(text.text)
        return text

    def put_back(self, texts: Iterable[Text]) -> None:
        """Texts that were taken are to be sent again, before all others."""
        for text in reversed(list(texts)):
            self.texts.appendleft(text)
            self.chars += len(text.text)

    def drop_unspeakable(self) -> None:
        """Nothing that could be spoken comes any more: leave out the rest, if it is only marks."""
        if not any(text.speakable for text in self.texts):
            while self.texts:
                self._leave_out(self.pop())

    def _push(self, text: Text) -> None:
        for part in _parts(text, self._max_chars):
            self.texts.append(part)
            self.chars += len(part.text)

    def _joined(self, first: Text, second: Text) -> Text:
        """Both as one; only the speakable one if they would be too long."""
        if self._max_chars is None or len(first.text) + len(second.text) <= self._max_chars:
            return Text(first.text + second.text, first.start, second.end)
        kept, other = (first, second) if first.speakable else (second, first)
        self._leave_out(other)
        return kept

    def _leave_out(self, text: Text) -> None:
        self.left_out_chars += len(text.text.strip())

    def _sendable(self, fragment: Fragment) -> str:
        text = _well_formed(fragment.text)
        if self._exact:
            return text
        joined = " ".join(text.split())
        if self._separate and text[:1].isspace():
            joined = " " + joined
        # A cut for length may be within a word; the white space after it, if any, is at the start of the next fragment.
        self._separate = fragment.boundary is Boundary.LENGTH and not text[-1:].isspace()
        return joined if self._separate or not joined else joined + " "


def _parts(text: Text, max_chars: int | None) -> list[Text]:
    """Return the text in parts that are not too long, cut at spaces where there are any."""
    if max_chars is None or len(text.text) <= max_chars:
        return [text]
    parts, at, whole = list[Text](), 0, len(text.text)
    share = (text.end - text.start) / whole
    while at < whole:
        cut = at + max_chars
        if cut < whole:
            cut = text.text.rfind(" ", at, cut) + 1 or cut
        end = text.end if cut >= whole else text.start + round(cut * share)
        parts.append(Text(text.text[at:cut], text.start + round(at * share), end))
        at = cut
    return parts


def _well_formed(text: str) -> str:
    """Text that can be sent: surrogate pairs joined, lone ones and control characters replaced by a space."""
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\ufffd", " ")
    return "".join(char if char >= " " or char in "\t\n\r" else " " for char in text)
