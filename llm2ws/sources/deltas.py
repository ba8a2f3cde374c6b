"""Finding the new text in each output of a model.

Some servers send only what comes next, others repeat the whole text so far with each output.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..errors import SourceError

__all__ = ["Deltas", "Finals"]


class Deltas:
    """What is new in each output of one answer.

    `cumulative`: whether each output repeats the text so far; None: to be found out. The first output is new in any case.
    While each output begins with the one before, both are possible, and outputs are held back until one does not, or has
    grown for the second time ("1", "10" may be either; "1", "10", "10 m" hardly is). So a cumulative answer is delayed by one
    output at its start.
    """

    def __init__(self, who: str = "the stream", *, cumulative: bool | None = False) -> None:
        self._who = who  # For messages.
        self._cumulative = cumulative
        self._given = ""  # The text of a cumulative answer so far; the first output until the kind is found out.
        self._held: list[str] = []
        self._grown = 0

    def feed(self, output: str) -> str:
        """Return what is new. Raises SourceError if a cumulative answer takes back some of its text."""
        match self._cumulative:
            case False:
                return output
            case True:
                return self._since(output)
        if not self._given or not output:
            self._given = self._given or output
            return output
        last = self._held[-1] if self._held else self._given
        self._held.append(output)
        if not output.startswith(last):
            return self._decided(cumulative=False)
        self._grown += len(output) > len(last)
        return self._decided(cumulative=True) if self._grown == 2 else ""

    def finish(self) -> str:
        """Return what was held back, at the end of the answer."""
        return self._decided(cumulative=self._grown > 0) if self._held else ""

    def _decided(self, *, cumulative: bool) -> str:
        self._cumulative = cumulative
        held, self._held = self._held, []
        return self._since(held[-1]) if cumulative else "".join(held)

    def _since(self, output: str) -> str:
        text = output.rstrip("\ufffd")  # Part of a character, which the next output has as a whole.
        if text.startswith(self._given):
            given, self._given = self._given, text
            return text[len(given) :]
        if self._given.startswith(text):
            return ""
        raise SourceError(f"{self._who}: took back what it had said", hint="look into the server's log, or at cumulative")


class Finals:
    """What is new in final objects, which repeat the text of deltas, or are the only place of a text.

    Texts of one `level` of final objects, such as those of messages, come in the order of the answer: each is compared with
    the text given since the last one of its level. So a server may give any of the levels, and number its parts as it likes.
    `key` names the part of the answer; it decides only where a final text is not what deltas gave.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._keys: set[Hashable] = set()
        self._compared: dict[str, int] = {}  # By level: how many characters of the given text final texts have repeated.

    @property
    def given(self) -> str:
        """The text given so far."""
        return "".join(self._texts)

    def delta(self, text: str, key: Hashable = 0) -> None:
        """Take the next text of a part."""
        self._texts.append(text)
        self._keys.add(key)

    def rest(self, text: str, key: Hashable = 0, level: str = "") -> str:
        """Return what is new in a final text. It counts as given from then on.

        Without a level, the text is the whole answer so far.
        """
        given = self.given
        start = self._compared.get(level, 0)
        since = given[start:]
        rest = ""
        if since.startswith(text):
            start += len(text)
        elif text.lstrip().startswith(since.strip()):
            rest = text[len(since) :] if text.startswith(since) else text.lstrip()[len(since.strip()) :]
            start = len(given) + len(rest)
        elif (found := since.find(text.strip())) >= 0:
            start += found + len(text.strip())
        elif key not in self._keys:  # Else it is the same text with changes, and spoken text cannot be taken back.
            rest = text
        if level:
            self._compared[level] = start
        if rest:
            self.delta(rest, key)
        return rest
