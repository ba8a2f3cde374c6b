"""The text in a program's output for a terminal, without control sequences and the text that they erase."""

from __future__ import annotations

import re

__all__ = ["Terminal"]

MAX_SEQUENCE_CHARS = 4096  # A longer one is taken for text.
MAX_WORD_CHARS = 40  # How much of a word may be erased, and so is held back. Programs that wrap lines write it again below.

# ECMA-48: control sequences, strings (such as titles and links) up to their terminator, and other escapes; backspaces.
_CONTROL = re.compile(
    r"\x1b\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]|\x08"
)
# One of them that has not ended.
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
# The end of a text that may be half a word. Where words are not set apart by spaces, lines are wrapped without erasing any.
_WORD = re.compile(rf"[^\W_\u2e80-\U0010ffff]{{1,{MAX_WORD_CHARS}}}\Z")


class Terminal:
    """The text that a terminal would show, read with `feed` for each piece of output, then `finish`.

    Moving back within the last word and erasing from there takes it back; all other control sequences are left out.
    """

    def __init__(self) -> None:
        self._word = ""  # The end of the text, which may still be erased.
        self._begun = ""  # A control sequence that has not ended.
        self._back = 0  # Characters by which the cursor was moved back.

    def feed(self, text: str) -> str:
        """Return the text that is certain."""
        text, self._begun = self._begun + text, ""
        if (begun := _BEGUN.search(text)) and len(begun[0]) <= MAX_SEQUENCE_CHARS:
            text, self._begun = text[: begun.start()], begun[0]
        shown = self._word
        at = 0
        for control in _CONTROL.finditer(text):
            shown = self._write(shown, text[at : control.start()])
            at = control.end()
            match control["final"]:
                case None if control[0] == "\x08":
                    self._back += 1
                case "D" if re.fullmatch(r"[0-9]{0,4}", control["parameters"]):
                    self._back += int(control["parameters"] or 1)
                case "K" if control["parameters"] in ("", "0"):
                    shown = self._erased(shown)
        shown = self._write(shown, text[at:])
        word = _WORD.search(shown)
        self._word = word[0] if word else ""
        return shown.removesuffix(self._word) if self._word else shown

    def finish(self) -> str:
        """Return the rest. A control sequence that has not ended is left out."""
        word, self._word = self._word, ""
        return word

    def _write(self, shown: str, text: str) -> str:
        """Write text at the cursor: it takes the place of what is there."""
        return self._erased(shown) + text if text else shown

    def _erased(self, shown: str) -> str:
        back, self._back = self._back, 0
        word = _WORD.search(shown) if back else None
        return shown[: max(word.start(), len(shown) - back)] if word else shown
