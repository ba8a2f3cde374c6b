"""What is new in each output of a model: some servers send what comes next, others repeat the text so far with each output."""

from __future__ import annotations

from ..errors import SourceError

__all__ = ["Deltas"]


class Deltas:
    """Outputs in, what is new in them out.

    `cumulative`: each output repeats the text so far. None: told apart. The first output is new in any case. While each one
    begins with the one before, both are possible: it is held back until one does not, or has grown for the second time
    ("1", "10" may be either; "1", "10", "10 m" hardly is). That is a delay of one output at the start of a cumulative answer.
    """

    def __init__(self, who: str = "the stream", *, cumulative: bool | None = False) -> None:
        self._who = who  # for messages
        self._cumulative = cumulative
        self._told = ""  # of a cumulative answer; while it is not known what it is, the first output
        self._held: list[str] = []
        self._grown = 0

    def feed(self, output: str) -> str:
        """What is new. Raises SourceError when a cumulative answer takes back what it had said."""
        match self._cumulative:
            case False:
                return output
            case True:
                return self._since(output)
        if not self._told or not output:
            self._told = self._told or output
            return output
        last = self._held[-1] if self._held else self._told
        self._held.append(output)
        if not output.startswith(last):
            return self._decided(cumulative=False)
        self._grown += len(output) > len(last)
        return self._decided(cumulative=True) if self._grown == 2 else ""

    def finish(self) -> str:
        """What was held back. The answer has ended."""
        return self._decided(cumulative=self._grown > 0) if self._held else ""

    def _decided(self, *, cumulative: bool) -> str:
        self._cumulative = cumulative
        held, self._held = self._held, []
        return self._since(held[-1]) if cumulative else "".join(held)

    def _since(self, output: str) -> str:
        text = output.rstrip("\ufffd")  # half a character, which the next output has whole
        if text.startswith(self._told):
            told, self._told = self._told, text
            return text[len(told) :]
        if self._told.startswith(text):
            return ""
        raise SourceError(f"{self._who}: took back what it had said", hint="look into the server's log, or at cumulative")
