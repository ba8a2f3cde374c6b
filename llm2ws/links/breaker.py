"""A circuit breaker: an endpoint that has failed is left alone for a while, then tried by one turn.

Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

__all__ = ["Breaker"]

FAILURES = 3  # in a row, after which the endpoint rests
REST_S, LONGEST_REST_S = 5.0, 60.0  # Each rest is twice as long as the one before.


class Breaker:
    """The health of one endpoint: closed (in use), open (resting), half-open (one turn may try)."""

    def __init__(self) -> None:
        self._rest_s = REST_S
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False

    def allows(self, now: float) -> bool:
        """Return whether the endpoint may be tried."""
        return self._open_until is None or (now >= self._open_until and not self._trying)

    @property
    def rests_until(self) -> float:
        """When the rest ends; -inf for an endpoint in use."""
        return float("-inf") if self._open_until is None else self._open_until

    def trying(self, now: float) -> None:
        """Count a try. After a rest, `allows` is False for others until `opened`, `failed` or `gave_up`."""
        if self._open_until is not None and now >= self._open_until:
            self._trying = True

    def gave_up(self) -> None:
        """Count a try that was cancelled: it says nothing about the endpoint."""
        self._trying = False

    def opened(self) -> None:
        """Count a connection that was opened: the rest is over. Whether the connection gives audio is not known yet."""
        self._open_until, self._trying = None, False

    def succeeded(self) -> None:
        """Count a connection that gave audio."""
        self._failures, self._open_until, self._trying = 0, None, False
        self._rest_s = REST_S

    def failed(self, now: float) -> None:
        """Count a try that did not reach the endpoint, or a connection that ended at once."""
        self._failures += 1
        if self._trying:  # After a rest: the next one is longer.
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._trying = False
        if self._failures >= FAILURES:
            self._open_until = now + self._rest_s
