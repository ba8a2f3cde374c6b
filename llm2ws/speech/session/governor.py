"""The limits of one connection: when may the next Speak or Flush be sent, so that the endpoint need not refuse it.

The vendor counts in a window that slides, and so does the Governor. Asking (`speak_at`, `flush_at`) changes nothing; `spoke`
and `flushed` count what was then sent.
"""

from __future__ import annotations

from collections import deque

from ..dialect import Limits

__all__ = ["Governor"]

# Our clock reads when a message leaves, the endpoint's when it arrives: an early one may have been delayed more than a late
# one. This much of a window is left unused for it.
MARGIN = 1 / 60

# How far apart Flushes are kept, in shares of what would make the rest of them last for the rest of the window: from the first
# share while all are left to the second when none is, less so many times the speech that waits for this one, so that a few
# words wait for more. Found by trying, with 130 texts and models at 3 to 8 tokens a second: with less, a model slower than
# speech uses them up within half a minute and then has to be silent; with more, short answers are.
SPREAD_FIRST, SPREAD_LAST, SPREAD_SPEECH = 1.0, 1.2, 0.65


class Governor:
    """The limits of one connection. Times are monotonic seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._window_s = limits.window_s * (1 + MARGIN)
        self._spoken: deque[tuple[float, int]] = deque()
        self._chars = 0  # sum of `_spoken`
        self._flushes: deque[float] = deque()
        self._flush_not_before = float("-inf")

    def speak_at(self, n_chars: int, now: float) -> float:
        """Return the earliest time, `now` or later, at which so many characters may be sent."""
        limit = self._limits.chars_per_window
        if limit is None:
            return now
        self._forget(now)
        excess = self._chars + n_chars - limit
        at = now
        for sent_at, chars in self._spoken:
            if excess <= 0:
                break
            excess -= chars
            at = sent_at + self._window_s
        return at

    def spoke(self, n_chars: int, now: float) -> None:
        """Count characters that were sent."""
        if self._limits.chars_per_window is not None:
            self._spoken.append((now, n_chars))
            self._chars += n_chars

    def flush_at(self, now: float, *, final: bool) -> float:
        """Return the earliest time, `now` or later, at which a Flush may be sent. The reserve is for `final` ones."""
        limit = self._limits.flushes_per_window
        if limit is None:
            return max(now, self._flush_not_before)
        self._forget(now)
        if not final:
            limit = max(1, limit - self._limits.flush_reserve)  # Without that a turn could never be begun.
        over = len(self._flushes) + 1 - limit
        at = self._flushes[over - 1] + self._window_s if over > 0 else now
        return max(at, now, self._flush_not_before)

    def can_carry(self, chars: int, flushes: int, now: float) -> bool:
        """Return whether so many characters, and Flushes outside the reserve, may be sent at once.

        Where the limits never allow so many: whether nothing is used up.
        """
        self._forget(now)
        limits = self._limits
        if limits.chars_per_window is not None and self._chars and self._chars + chars > limits.chars_per_window:
            return False
        if limits.flushes_per_window is None:
            return now >= self._flush_not_before
        left = limits.flushes_per_window - limits.flush_reserve - len(self._flushes)
        return now >= self._flush_not_before and (not self._flushes or left >= flushes)

    def spread_at(self, speech_s: float, now: float) -> float:
        """Return when a Flush within a turn, for which so much speech waits, should be sent so that Flushes do not run out.

        One of those outside the reserve is left for the turn's own end.
        """
        limit = self._limits.flushes_per_window
        self._forget(now)
        if limit is None or not self._flushes:
            return now
        left = max(1, limit - self._limits.flush_reserve - 1) - len(self._flushes)
        if left <= 0:
            return self._flushes[-left] + self._window_s
        used, first, last = len(self._flushes), self._flushes[0], self._flushes[-1]
        gap_s = (first + self._window_s - last) / (left + 1)
        gap_s *= SPREAD_FIRST + (SPREAD_LAST - SPREAD_FIRST) * used / (used + left)
        return last + max(0.0, gap_s - SPREAD_SPEECH * speech_s)

    def flushed(self, now: float) -> None:
        """Count a Flush that was sent."""
        if self._limits.flushes_per_window is not None:
            self._flushes.append(now)

    def refused(self, now: float) -> None:
        """Take the endpoint's window to be full: it refused the newest Flush, so it counts otherwise than the Governor."""
        if self._flushes:
            self._flushes.pop()
        oldest = self._flushes[0] if self._flushes else now
        self._flush_not_before = max(now + self._window_s / 12, oldest + self._window_s)

    def _forget(self, now: float) -> None:
        horizon = now - self._window_s
        while self._spoken and self._spoken[0][0] <= horizon:
            self._chars -= self._spoken.popleft()[1]
        while self._flushes and self._flushes[0] <= horizon:
            self._flushes.popleft()
