"""One connection's limits as a model: when may the next Speak or Flush go, so that the endpoint never has to refuse it.

The vendor counts in a window that slides; so does this. Asking (`speak_at`, `flush_at`) changes nothing; what was then sent
is told with `spoke` and `flushed`.
"""

from __future__ import annotations

from collections import deque

from .dialect import Limits

__all__ = ["Governor"]

# Our clock reads when a message leaves, the endpoint's when it arrives: an early one may have been delayed more than a late
# one. This much of a window is left unused for it.
MARGIN = 1 / 60

# How far apart Flushes are kept once a quarter of the usual ones is used: from this share of what would make the rest of them
# last for the rest of the window, up to all of it. Found by trying (scripts/bench_pacing.py): without it, a model slower than
# speech uses them up within half a minute and then has to be silent.
SPREAD = 0.3


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
        """The earliest time, `now` or later, at which so many characters may be sent."""
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
        """So many characters were sent."""
        if self._limits.chars_per_window is not None:
            self._spoken.append((now, n_chars))
            self._chars += n_chars

    def flush_at(self, now: float, *, final: bool) -> float:
        """The earliest time, `now` or later, at which a Flush may be sent. The reserve is for `final` ones."""
        limit = self._limits.flushes_per_window
        if limit is None:
            return max(now, self._flush_not_before)
        self._forget(now)
        if not final:
            limit = max(1, limit - self._limits.flush_reserve)  # or a turn could never be begun
        over = len(self._flushes) + 1 - limit
        at = self._flushes[over - 1] + self._window_s if over > 0 else now
        return max(at, now, self._flush_not_before)

    def flush_gap_s(self, now: float) -> float:
        """How long to leave between two Flushes so that they do not run out: longer, the fewer are left of the usual ones."""
        limit = self._limits.flushes_per_window
        if limit is None:
            return 0.0
        self._forget(now)
        usual, used = max(1, limit - self._limits.flush_reserve), len(self._flushes)
        if 4 * used < usual:
            return 0.0
        rest_s = self._flushes[0] + self._window_s - now
        return rest_s / max(1, usual - used) * (SPREAD + (1 - SPREAD) * used / usual)

    def flushed(self, now: float) -> None:
        """A Flush was sent."""
        if self._limits.flushes_per_window is not None:
            self._flushes.append(now)

    def refused(self, now: float) -> None:
        """The newest Flush was refused: the endpoint counts otherwise than we do. Its window is taken to be full."""
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
