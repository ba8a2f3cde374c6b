"""Cut a token stream into fragments fit to be spoken.

What has been scanned is not scanned again, and what is held is bounded by the longest fragment; so the cost of a
token does not grow with the text. One pattern finds the next candidate; a judge (`stops`, `lines`, `clauses`) says whether to
cut there, and waits as long as that depends on what has not arrived.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ConfigError
from .abbreviations import words_of
from .boundaries import (
    CANDIDATE,
    CANDIDATE_FIRST,
    CLAUSE,
    NEWLINE,
    SPEAKABLE,
    STOPS,
    SURE,
    WORD_END,
    Verdict,
    View,
    cut,
    go_on,
    is_stop_of_script,
)
from .clauses import best_place, columns_end, judge_clause, judge_mark, last_clause_end
from .fragments import Boundary, Fragment, Held, Hold, Piece, Policy
from .languages import RECENT_CHARS
from .lines import Line, judge_line, line_kind
from .stops import held_stop, hold_of, judge

__all__ = ["Fragmenter"]


_NOTHING = Held(Hold.NOTHING, "no place to cut is in sight")
_CLAUSE_CHARS = frozenset(CLAUSE)
_STOPS = frozenset(STOPS + SURE)
_CODE = Line(closed=True, item=False, fence="")
_RELEASE_FLOOR = 12  # characters
_new = tuple.__new__  # half the time of Fragment(...)
_GRACE = 8  # an eighth of the longest first fragment: so far behind it a clause may still end


class _Run(NamedTuple):
    """A stretch of the cleaned text, up to the next one, and the span of the model's text behind it."""

    at: int
    start: int
    end: int | None  # None: each character stands for the one at the same place

    def source_start(self, place: int) -> int:
        """Return where a fragment that begins at this place begins in the model's text."""
        if self.end is None:
            return self.start + place - self.at
        return self.start if place == self.at else self.end

    def source_end(self, place: int) -> int:
        """Return where a fragment that ends at this place ends in the model's text.

        An undivided span belongs to the fragment that holds its beginning.
        """
        return self.start + place - self.at if self.end is None else self.end


class Fragmenter:
    """Cuts one turn after another; `policy` says how far.

    `language` is a code such as "de" or "pt-BR"; None: any, the abbreviations of all languages together. All sizes are in
    characters: no fragment is longer than `max_chars`. With CLAUSE_FIRST the first one leaves at the first comma or the like
    past half of `first_min_chars` (full-width ones count twice), where none comes before a conjunction past four times that,
    or is cut at `first_max_chars` when nothing ends there or within an eighth of that behind it. What stands before the first
    word, and marks above and below letters, are not counted in it. ConfigError for a size below 1.

    Joined, the fragments' texts are the Pieces' texts exactly. White space around a cut begins the next fragment; what is left
    at the end may be white space only.
    """

    def __init__(
        self,
        policy: Policy = Policy.CLAUSE_FIRST,
        *,
        language: str | None = None,
        max_chars: int = 300,
        first_min_chars: int = 20,
        first_max_chars: int = 120,
    ) -> None:
        if min(max_chars, first_min_chars, first_max_chars) < 1:
            raise ConfigError("a fragment size below 1 character", hint="give 1 or more")
        self._policy = policy
        self._sentences = policy in (Policy.SENTENCE, Policy.CLAUSE_FIRST)
        self._words = words_of(language)
        self._max_chars = max_chars
        self._first_min = first_min_chars
        self._first_max = min(first_max_chars, max_chars)
        self._reset()

    def _reset(self) -> None:
        self._text = ""  # what has not been sent
        self._sent = 0  # characters before it
        self._recent = ""  # the end of what has been sent, if the language is to be guessed
        self._runs: list[_Run] = []
        self._source = -1  # the model's text continues here if the last run goes on; -1 if it cannot
        self._idle = self._policy is Policy.SENTENCE  # no candidate stands open, and none but those of `_pattern` count
        self._pattern = CANDIDATE
        self._scan = 0  # nothing before this place is looked at again
        self._index = 0
        self._waiting: Verdict | None = None
        self._line = 0  # where the current line began; negative if that has been sent
        self._kind: Line | None = None  # of the current line, once its head has been sent
        self._fence = ""  # the open code fence
        self._fresh = True  # the unsent text begins with a new sentence
        self._clause_first = self._policy is Policy.CLAUSE_FIRST

    def feed(self, piece: Piece) -> list[Fragment]:
        """Take a piece; return the fragments that it completes."""
        text, start, end = piece
        if not text:
            return []
        whole = end - start == len(text)
        if not whole or start != self._source:
            self._runs.append(_Run(self._sent + len(self._text), start, None if whole else end))
        self._source = end if whole else -1
        self._text = held = self._text + text
        last = len(held) - 1
        if self._idle and last < self._max_chars:
            found = self._pattern.search(held, self._scan)
            if found is None:
                self._scan = last
                return []
            self._scan = found.start()
            if self._scan == last and held[last] in _STOPS:
                return []  # most stops end their token: nothing to judge yet
        return self._take(self._cuts(last + 1))

    def finish(self) -> list[Fragment]:
        """Return the rest, at the end of the turn.

        Then the Fragmenter is ready for another turn, whose fragments count from 0 again.
        """
        text = self._text
        size = len(text.rstrip())
        cuts: list[Verdict] = []
        if self._sentences and size:
            self._text += "\n"  # so that whatever waits for more is decided
            cuts = [verdict for verdict in self._cuts(size - 1) if verdict.at < size]  # the last character ends the text anyway
            self._text = text
        if text:
            cuts.append(cut(len(text), "the text ended", Boundary.END))
        fragments = self._take(cuts)
        self._reset()
        return fragments

    @property
    def holding(self) -> Held:
        """Tell what stands at the end of the text so far, and why it has not been sent."""
        waiting = self._wait()
        if waiting is None or waiting.hold is None or SPEAKABLE.search(self._text, 0, waiting.at) is None:
            return _NOTHING
        return hold_of(self._view(0, len(self._text)), self._scan, waiting)

    def release(self, *, clause: bool = False) -> list[Fragment]:
        """Cut at what `holding` shows, as the model paused; return an empty list if there is no place.

        `clause`: the listener is about to run dry, so any clause end in the held text will do.
        """
        waiting = self._wait()
        hold, why = self.holding
        if waiting is not None and hold is not Hold.NOTHING:
            verdict = cut(waiting.at, f"a pause: {why}", Boundary.PAUSE)
        elif clause and self._sentences and (place := self._last_clause_end()):
            self._fresh = False
            verdict = cut(place, "a pause: the last clause end", Boundary.PAUSE)
        else:
            return []
        self._waiting = None
        self._clause_first = False
        self._idle = True
        self._scan = max(self._scan, verdict.at)
        self._keep_kind(verdict.at)
        return self._take([verdict])

    def _wait(self) -> Verdict | None:
        """Return the WAIT that stands open, None if there is none."""
        text = self._text
        at = len(text) - 1
        if self._idle and not self._fence and self._scan == at >= 0 and text[at] in _STOPS:
            return held_stop(text[at], at + 1)
        return self._waiting

    def _last_clause_end(self) -> int:
        place = last_clause_end(self._text, 0, len(self._text), _RELEASE_FLOOR)
        return place if SPEAKABLE.search(self._text, 0, place) else 0

    # --- where to cut ----------------------------------------------------------------------------------------------

    def _cuts(self, size: int) -> list[Verdict]:
        """Return all cuts that the first `size` characters of the unsent text allow now; what is beyond may be looked at."""
        text, start, at = self._text, 0, self._scan
        cuts: list[Verdict] = []
        while True:
            longest = limit = start + self._max_chars
            if self._clause_first and len(text) > start + self._first_max:  # before that, columns make no difference
                longest = min(columns_end(text, start, self._first_max), limit)
                limit = min(longest + self._first_max // _GRACE, limit)
            end = min(limit, len(text))
            at, verdict = self._search(text, start, at, min(end, size), end)
            if verdict is not None and verdict.boundary is not None:
                at += 1
            elif size > limit:
                verdict = self._cut_longest(start, at, verdict, longest, end)
            else:
                self._scan, self._waiting = at, verdict
                self._idle = self._sentences and verdict is None and not self._clause_first
                return cuts
            cuts.append(verdict)
            start = verdict.at
            at = max(at, start)
            self._fresh = verdict.boundary is Boundary.SENTENCE
            self._clause_first = False
            self._keep_kind(start)

    def _cut_longest(self, start: int, at: int, waiting: Verdict | None, longest: int, end: int) -> Verdict:
        """Return where to cut what has become too long, though a candidate may be waiting `at` a place."""
        place = start
        if waiting is not None and hold_of(self._view(start, end), at, waiting).hold in (Hold.SURE, Hold.CAPITAL):
            place = waiting.at
        if place <= start:
            place = best_place(self._text, start, longest, self._words)
        return cut(place, "the longest allowed", Boundary.LENGTH)

    def _search(self, text: str, start: int, at: int, stop: int, end: int) -> tuple[int, Verdict | None]:
        """Return the next candidate before `stop` that is not a NO, and its verdict; or where to go on, and None."""
        if not self._sentences:
            return self._search_word(text, start, at, end)
        while True:
            pattern = CANDIDATE_FIRST if self._clause_first and not self._fence else self._pattern
            found = pattern.search(text, at, stop)
            if found is None:
                return max(at, end - 1), None  # the last character may be one that counts only before white space
            at = found.start()
            verdict = self._judge(text, start, at, end)
            if verdict.hold is not None or verdict.boundary is not None:
                return at, verdict
            at = verdict.at

    def _search_word(self, text: str, start: int, at: int, end: int) -> tuple[int, Verdict | None]:
        if self._policy is Policy.TOKEN:
            return start, Verdict(end, Boundary.WORD, None, "a token") if start < end == len(text) else None
        found = WORD_END.search(text, max(at, start + 1), end)
        if found is None:
            return end, None
        return found.start(), Verdict(found.start(), Boundary.WORD, None, "white space")

    def _view(self, start: int, end: int) -> View:
        origin = self._line if self._line >= start else start if self._fresh else -1
        return _new(View, (self._text, start, end, origin, self._words, self._recent))

    def _judge(self, text: str, start: int, at: int, end: int) -> Verdict:
        view, char = self._view(start, end), text[at]
        if char == "\n":
            return self._judge_line(view, at)
        verdict = None
        if self._clause_first:
            if char in "?!….":
                verdict = judge_mark(view, at, self._first_min)
            elif char.isspace() or (char in _CLAUSE_CHARS and not is_stop_of_script(text, at)):
                verdict = judge_clause(view, at, self._first_min)
        if verdict is None:
            verdict = judge(view, at)
        if verdict.boundary is not None:
            if (at == start or not text[at - 1].isalnum()) and SPEAKABLE.search(text, start, verdict.at) is None:
                return go_on(max(verdict.at, at + 1))
            if "`" in text and text.count("`", max(start, self._line), verdict.at) % 2:
                return go_on(at + 1)  # inside inline code
        return verdict

    def _keep_kind(self, place: int) -> None:
        """Keep the kind of the line, whose head is cut off: the end of the line is judged by what the head told."""
        if self._line < place and self._kind is None:
            self._kind = line_kind(self._text, self._line, place)

    def _judge_line(self, view: View, at: int) -> Verdict:
        kind = self._kind or line_kind(view.text, self._line, at)
        verdict = judge_line(view, at, at - self._line, _CODE if self._fence else kind)
        if verdict.hold is None:
            if kind.fence and self._fence in ("", kind.fence):
                self._fence = "" if self._fence else kind.fence
                self._pattern = NEWLINE if self._fence else CANDIDATE
            self._line, self._kind = at + 1, None
        return verdict

    # --- fragments and their spans -----------------------------------------------------------------------------------

    def _take(self, cuts: list[Verdict]) -> list[Fragment]:
        """Send the text up to the last cut."""
        if not cuts:
            return []
        text, sent, runs, begin, n, last = self._text, self._sent, self._runs, 0, 0, len(self._runs) - 1
        fragments: list[Fragment] = []
        for place, boundary, _, why in cuts:
            while n < last and runs[n + 1].at <= sent + begin:
                n += 1
            start = runs[n].source_start(sent + begin)
            while n < last and runs[n + 1].at < sent + place:
                n += 1
            end = runs[n].source_end(sent + place)
            fragments.append(_new(Fragment, (self._index, text[begin:place], start, end, boundary, why)))
            self._index += 1
            begin = place
        if not self._words.known:
            self._recent = (self._recent + text[max(0, begin - RECENT_CHARS) : begin])[-RECENT_CHARS:]
        self._text = text[begin:]
        self._sent += begin
        self._scan -= begin
        self._line -= begin
        if self._waiting is not None:
            at, _, hold, why = self._waiting
            self._waiting = _new(Verdict, (at - begin, None, hold, why))
        if n:
            del runs[:n]
        if not self._text:
            self._runs, self._source = [], -1
        return fragments
