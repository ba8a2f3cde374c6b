"""Which of several endpoints to try: one that has failed is left alone for a while, then tried by one turn.

Pure: `now` is monotonic seconds. A caller's cancel is no failure: only that a try `gave_up` is told here.
"""

from __future__ import annotations

__all__ = ["Breaker"]

FAILURES = 3  # in a row
REST_S = 5.0
LONGEST_REST_S = 60.0


class Breaker:
    """The health of one endpoint: closed (in use), open (resting), half-open (one turn may try)."""

    def __init__(self) -> None:
        self._rest_s = REST_S
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False

    def allows(self, now: float) -> bool:
        """Whether the endpoint may be tried."""
        return self._open_until is None or (now >= self._open_until and not self._trying)

    @property
    def rests_until(self) -> float:
        """When the rest ends; -inf when it is in use."""
        return float("-inf") if self._open_until is None else self._open_until

    def trying(self, now: float) -> None:
        """It is being tried. Right after a rest, nobody else tries until `opened`, `failed` or `gave_up`."""
        if self._open_until is not None and now >= self._open_until:
            self._trying = True

    def gave_up(self) -> None:
        """The try ended without telling anything: its turn was cancelled."""
        self._trying = False

    def opened(self) -> None:
        """A connection was opened: the rest is over. Whether it is any good is not known yet."""
        self._open_until, self._trying = None, False

    def succeeded(self) -> None:
        """A connection gave audio."""
        self._failures, self._open_until, self._trying = 0, None, False
        self._rest_s = REST_S

    def failed(self, now: float) -> None:
        """It could not be reached, or hung up at once."""
        self._failures += 1
        if self._trying:  # after a rest: the next one is longer
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._trying = False
        if self._failures >= FAILURES:
            self._open_until = now + self._rest_s
