"""What is said, with the spaces mended where something between two words was dropped."""

from __future__ import annotations

from typing import Final

from .fragments import Piece

__all__ = ["Said"]

# No space stands before these where something was dropped.
_ENDS: Final = frozenset(" ,.;:!?)]}，。！？、；：…\n")
_STOPS: Final = frozenset(".!?:;")
_SENTENCE_STOPS: Final = frozenset(".!?")
_UNSPACED: Final = "\u2e80"  # Chinese and Japanese from here on


class Said:
    """The Pieces of one turn. Positions are those of the model's text.

    Spaces at the end of a text wait for what comes next, since it may be dropped: "Great 😀!" is said "Great!".
    """

    def __init__(self) -> None:
        self.last = ""  # the last character, "" at the start
        self.newlines = 2  # at the end
        self.any = False  # something else than white space was said
        self._pieces: list[Piece] = []
        self._gap: tuple[int, int] | None = None  # the spaces that wait
        self._dropped = False  # since the last character that was said
        self._dropped_after_gap = False
        self._apart = False  # what was dropped held two words apart

    @property
    def waits(self) -> bool:
        """Whether spaces wait for what comes next, and `settle` would say them."""
        return self._gap is not None and not self._dropped_after_gap

    @property
    def dropped(self) -> bool:
        """Whether something was dropped since the last character that was said."""
        return self._dropped

    def take(self) -> list[Piece]:
        """Return what was said since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def say(self, text: str, start: int) -> None:
        """Say the characters as they are."""
        body = text.strip(" ")
        first = start + (len(text) - len(text.lstrip(" ")) if body else len(text))
        if first > start and not (self._dropped_after_gap or (self._dropped and self.last in ("", " ", "\n"))):
            self._gap = (self._gap[0] if self._gap else start, first)
        if not body:
            return
        end = first + len(body)
        if self._gap and self._gap[1] == first and not self._dropped_after_gap:
            body = " " * (first - self._gap[0]) + body
            first = self._gap[0]
            self._gap = None
        self.put(body, first, end)
        if end < start + len(text):
            self._gap = (end, start + len(text))

    def put(self, text: str, start: int, end: int) -> None:
        """Say `text` for what stands from `start` to `end`."""
        if not text:
            self.drop()
            return
        if self._dropped_after_gap and text[0] in _ENDS:
            self._gap = None
        elif self._gap is not None:
            self._say_gap()
        elif self._dropped and self._glues(text[0]):
            self._pieces.append(Piece(" ", start, start))
        self._dropped = self._dropped_after_gap = self._apart = False
        self._pieces.append(Piece(text, start, end))
        self.last = text[-1]
        self.any = self.any or not text.isspace()
        body = text.rstrip("\n")
        self.newlines = len(text) - len(body) + (0 if body else self.newlines)

    def _glues(self, first: str) -> bool:
        """Return whether two words, or two sentences, would grow together where something was dropped."""
        if self._apart:
            return (self.last.isalnum() or self.last in _STOPS) and first.isalnum() and not self.last >= _UNSPACED
        return self.last in _SENTENCE_STOPS and first.isalpha() and not first.islower() and not first >= _UNSPACED

    def settle(self) -> None:
        """Say the spaces that wait, if nothing was dropped behind them: nothing comes for a while, or for good."""
        if self.waits:
            self._say_gap()

    def drop(self, *, apart: bool = False) -> None:
        """Note that something is not said. `apart`: if nothing else stands between two words, a space must."""
        self._dropped = True
        self._dropped_after_gap = self._gap is not None
        self._apart = self._apart or apart

    def open(self) -> None:
        """Keep the space before what comes, which belongs to a word that begins here, as in ".env"."""
        if self._gap is not None:
            self._say_gap()

    def forget_gap(self) -> None:
        """Drop the spaces that wait, before a stop of ours."""
        self._gap = None

    def new_paragraph(self, at: int) -> None:
        """Begin a paragraph with what comes."""
        if self.newlines < 2:
            self.drop()
            self.put("\n" * (2 - self.newlines), at, at)

    def _say_gap(self) -> None:
        assert self._gap is not None
        start, end = self._gap
        self._pieces.append(Piece(" " * (end - start), start, end))
        self._gap = None
        self.last = " "
        self.newlines = 0
