"""Which Flush an ack answers. Acks carry no number that could be trusted, and some come for turns that are over."""

from __future__ import annotations

from collections import deque

__all__ = ["Acks"]


class Acks:
    """The Flushes of a connection that have no answer yet, by the numbers of their turns.

    `Flushed` answers the oldest of them. A refusal comes at once, while accepted ones are still being spoken, so it answers the
    newest. When a turn is cancelled its Flushes are void, but the endpoint may have acked them already, or still do: an ack
    with no audio before it is one of these.
    """

    def __init__(self) -> None:
        self._flushes: deque[int] = deque()  # oldest first
        self._void = 0  # Flushes of cancelled turns whose acks may still come
        self._audio_came = False  # since the last ack

    def sent(self, ref: int) -> None:
        """Count a Flush that was sent for a turn."""
        self._flushes.append(ref)

    def audio(self) -> None:
        """Take note of audio for a turn that is not cancelled."""
        self._audio_came = True

    def waiting(self, ref: int) -> int:
        """Return how many Flushes of a turn have no answer."""
        return self._flushes.count(ref)

    def acked(self, ref: int | None) -> int | None:
        """Return the turn that an ack is for; None for a stale ack. `ref`: the turn that the ack names; None for none."""
        void = self._void > 0 and not self._audio_came
        self._void -= void
        self._audio_came = False
        answered = None if void else self._take(ref, 0)
        if answered is not None:
            self._void = 0  # Acks keep their order: none of an older turn can follow.
        return answered

    def refused(self, ref: int | None) -> int | None:
        """Return the turn whose Flush was refused; None for a turn that is over. `ref`: as for `acked`."""
        return self._take(ref, -1)

    def void(self, ref: int) -> None:
        """Count the Flushes of a turn that was cancelled: each may be answered or not, and without a name."""
        self._void += self.waiting(ref)

    def forget(self, ref: int) -> None:
        """Drop the Flushes of a turn that is over."""
        self._flushes = deque(other for other in self._flushes if other != ref)
        self._audio_came = False

    def _take(self, ref: int | None, end: int) -> int | None:
        if ref is None and self._flushes:
            ref = self._flushes[end]
        if ref is None or ref not in self._flushes:
            return None
        self._flushes.remove(ref)
        return ref
