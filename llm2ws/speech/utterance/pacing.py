"""When to send text, when to flush, how far ahead of the listener to ask, and how long a pause of the model is waited out.

A listener hears silence when what was asked for runs out, and pays for what was asked for in vain when they interrupt. So the
first fragment is flushed at once; later groups grow for as long as the audio that is still to be played allows.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ...text.fragments import Hold
from .utterance import Utterance

__all__ = ["CUT", "END", "FLUSH", "SPEAK", "Gate", "Pace", "Pacing", "Step", "pause_s"]

AHEAD_S = 30.0  # of speech asked for and not heard yet, at most
# The next group is flushed when less than this is left to be heard. A small group waits longer, because it may still grow, and
# each group costs one of the endpoint's Flushes.
DRY_S = 2.0
DRY_LEAST_S = 0.25
GROWN_S = 12.0  # a group that lasts so long need not grow
FIRST_AUDIO_S = 0.3  # from Flush to audio, until the endpoint has shown its own
IN_FLIGHT = 2  # groups flushed and unanswered
# Where the model writes faster than the voice speaks, each Flush brings more to hear than the one before, and there will be
# enough of them: what waits for one counts for more. By so much: the model's speed (seconds of speech written in a second) to
# this power, up to that speed. It is taken to be that of speech at first, with the weight of so many seconds. Found by trying,
# with 120 texts of natural sentence lengths at 3, 5 and 8 tokens a second: with a higher power a model hardly faster than
# speech runs out of Flushes, with a lower one answers begin with silence that nothing asks for.
GROWTH_POWER, GROWTH_MOST, GROWTH_KNOWN_S = 4.0, 1.8, 1.5
QUIET_S = 1.0  # without audio and without text for it: an endpoint that speaks text as it comes has spoken all it got
LAPSE_SHARE = 0.5  # of the time after which an endpoint ends a context that is quiet, when it is ended from here

# How long the model must be silent before what is held is let go, in seconds. A number or an abbreviation waits longer, and
# longer still where the model is slow.
PAUSE_S = 0.12
DOUBT_S = 1.0
DOUBT_GAPS = 4.0


def pause_s(hold: Hold, token_gap_s: float) -> float:
    """How long to wait for the next token before letting go what is held; `token_gap_s` is the usual gap."""
    match hold:
        case Hold.NOTHING:
            return math.inf
        case Hold.SURE | Hold.CAPITAL:
            return PAUSE_S
        case Hold.DOUBT:
            return max(DOUBT_S, DOUBT_GAPS * token_gap_s)


class Pace(StrEnum):
    """Who takes the audio."""

    LISTENER = "listener"  # somebody who hears it as it comes: sound device, page, telephone
    NONE = "none"  # a file or a pipe, as fast as it can be made


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: `speak`, `flush`, `end`, or nothing before `wait_until` (inf: before something happens).

    `cut`: the listener is about to hear silence and there is nothing to send: cut at a clause, as soon as there is one.
    """

    verb: str
    wait_until: float = math.inf


SPEAK, FLUSH, END, CUT = Step("speak"), Step("flush"), Step("end"), Step("cut")


class Gate(Protocol):
    """The limits of the connection that carries the turn."""

    def speak_at(self, n_chars: int, now: float) -> float:
        """The earliest time at which so many characters may be sent."""

    def flush_at(self, now: float, *, final: bool = False) -> float:
        """The earliest time at which a Flush may be sent."""

    def spread_at(self, speech_s: float, now: float) -> float:
        """When a Flush for which so much speech waits should be sent, so that they do not run out.

        With inf for the speech: not after `now`, unless only the one for the turn's end is left; then when there are more.
        """


class Pacing:
    """The listener's side of one turn. Times are monotonic seconds; positions are seconds of the turn's audio."""

    def __init__(self, pace: Pace, *, ahead_s: float = AHEAD_S) -> None:
        self.pace = pace
        self._ahead_s = ahead_s
        self.handed_s = 0.0  # audio that has gone to whoever takes it
        self._dry_at: float | None = None  # when all of it has been heard, by the clock
        self._played: tuple[float, float] | None = None  # position reported, and when
        self._flushed_at: deque[float] = deque()  # unanswered flushes
        self._audio_since_ack = False
        self._acked_at = float("-inf")
        self._first_flush_at: float | None = None
        self._first_chars: int | None = None  # of the first group
        self._growth: tuple[int, float] = (0, 1.0)  # after so many characters, what waits counts so many times
        self._latencies: deque[float] = deque(maxlen=20)

    # What happened

    def handed_out(self, seconds: float, now: float) -> None:
        """So much audio has gone to whoever takes it."""
        # What comes after a silence is heard from then on: the silence is not made up for.
        self._dry_at = max(now, self._dry_at or now) + seconds
        self.handed_s += seconds

    def played(self, position_s: float, now: float) -> None:
        """The listener is known to be at this position."""
        self._played = (position_s, now)

    def flushed(self, now: float) -> None:
        """A group was flushed."""
        self._flushed_at.append(now)
        if self._first_flush_at is None:
            self._first_flush_at = now

    def audio_came(self, now: float) -> None:
        """Audio of the oldest flushed group came. The first tells how long a Flush takes, not counting earlier groups."""
        if self._flushed_at and not self._audio_since_ack:
            self._latencies.append(now - max(self._flushed_at[0], self._acked_at))
        self._audio_since_ack = True

    def acked(self, now: float) -> None:
        """The oldest flushed group was acknowledged, with or without audio."""
        if self._flushed_at:
            self._flushed_at.popleft()
        self._audio_since_ack = False
        self._acked_at = now

    def refused(self) -> None:
        """The newest flush was not carried out."""
        if self._flushed_at:
            self._flushed_at.pop()

    def lost(self) -> None:
        """The connection is gone: flushes on their way will not be answered."""
        self._flushed_at.clear()
        self._audio_since_ack = False

    # Questions

    def played_s(self, now: float) -> float:
        """How much has been heard: as reported, else as much as can have been since it was handed out."""
        if self._played is not None:
            return min(self._played[0], self.handed_s)
        if self._dry_at is None or self.pace is Pace.NONE:
            return self.handed_s
        return self.handed_s - max(0.0, self._dry_at - now)

    def buffered_s(self, utterance: Utterance, now: float) -> float:
        """Seconds of audio that the listener has not heard and will get without another Flush, open text left out."""
        open_s = utterance.open_chars * utterance.seconds_per_char
        asked_s = utterance.released_s + max(0.0, utterance.outstanding_s - open_s)
        return max(0.0, asked_s - self.played_s(now))

    @property
    def flush_latency_s(self) -> float:
        """From a Flush to its first audio: what nine of ten have stayed under."""
        if not self._latencies:
            return FIRST_AUDIO_S
        return sorted(self._latencies)[math.ceil(0.9 * len(self._latencies)) - 1]

    # The decision

    def next_step(self, utterance: Utterance, gate: Gate, now: float) -> Step:
        """What to do now for a turn whose text flows while the model writes and whose audio waits for Flush."""
        waits: list[float] = []
        if utterance.open_chars and not utterance.half_said:
            at = self._flush_at(utterance, gate, now)
            if at <= now:
                return END if utterance.all_said else FLUSH
            waits.append(at)
            if self._waits_for_more(utterance, now) and at < math.inf:
                return Step("cut", at)  # what is written already may make it worth a Flush
        elif utterance.all_said:
            return END
        elif self.pace is Pace.LISTENER and not utterance.first_group and utterance.peek() is None:
            # Even when a Flush has to wait: how much there is tells how long.
            at = self._needed_at(utterance, now)
            if at <= now:
                return CUT
            waits.append(at)
        if utterance.half_said or not (utterance.first_group and utterance.open_chars):
            at = self._speak_at(utterance, gate, now)
            if at <= now:
                return SPEAK
            waits.append(at)
        return Step("wait", min(waits, default=math.inf))

    def next_step_streaming(
        self, utterance: Utterance, gate: Gate, now: float, *, quiet_since: float, context_idle_s: float | None = None
    ) -> Step:
        """The same for an endpoint that speaks text as it comes, and wants one End.

        `quiet_since`: when text of the turn was last sent, or audio of it last came. `context_idle_s`: after so long without
        audio it ends the context by itself. A Flush ends it before that, and the next one begins when it is over, so that
        their audio cannot mix.
        """
        if utterance.all_said:
            return END
        if utterance.flushes:
            return Step("wait")
        quiet_at = quiet_since + QUIET_S
        outstanding_s = utterance.outstanding_s if now < quiet_at else 0.0  # an estimate: nothing more comes
        waits = [quiet_at] if now < quiet_at else []
        at = self._speak_at(utterance, gate, now, outstanding_s)
        if at <= now:
            return SPEAK
        waits.append(at)
        if context_idle_s is not None and utterance.open_chars:
            at = quiet_since + LAPSE_SHARE * context_idle_s
            if at <= now:
                return FLUSH
            waits.append(at)
        if self.pace is Pace.LISTENER and utterance.said_chars and utterance.peek() is None:
            ahead_s = utterance.released_s + outstanding_s - self.played_s(now)
            due_in_s = ahead_s - self.flush_latency_s - DRY_LEAST_S
            if due_in_s <= 0:
                return Step("cut", min(waits))
            if not self._stands_still:
                waits.append(now + due_in_s)
        return Step("wait", min(waits))

    def _speak_at(self, utterance: Utterance, gate: Gate, now: float, outstanding_s: float | None = None) -> float:
        """The earliest time at which the next text may be sent; inf when that depends on something else."""
        text = utterance.peek()
        if text is None:
            return math.inf
        if outstanding_s is None:
            outstanding_s = utterance.outstanding_s
        ahead_s = utterance.released_s + outstanding_s - self.played_s(now)
        over_s = ahead_s + len(text) * utterance.seconds_per_char - self._ahead_s
        if over_s > 0 and ahead_s > 0 and not (utterance.half_said and utterance.open_chars):
            # A group that is said again is said whole, however long it is: nothing comes before its Flush.
            return math.inf if self._stands_still else now + over_s
        return gate.speak_at(len(text), now)

    def _flush_at(self, utterance: Utterance, gate: Gate, now: float) -> float:
        """The earliest time at which the open group should be flushed; inf when that depends on something else."""
        if utterance.flushes >= IN_FLIGHT:
            return math.inf
        final = utterance.all_said
        # What is said again has to come up to where it broke off before it gives anything new: it does not wait to be needed.
        if utterance.first_group or utterance.repeating or (final and self.pace is Pace.NONE):
            return gate.flush_at(now, final=final)
        if final:  # it need not take from the reserve while there is something to hear
            return max(gate.flush_at(now, final=True), min(gate.flush_at(now), self._needed_at(utterance, now)))
        more = not utterance.must_flush and utterance.peek() is not None
        if more and self._speak_at(utterance, gate, now) <= now:
            return math.inf  # the group may still grow, at no cost
        if self.pace is Pace.NONE:
            if utterance.flushes and not utterance.must_flush:
                return math.inf
            return gate.flush_at(now)
        return self._low_at(utterance, gate, now)

    def _low_at(self, utterance: Utterance, gate: Gate, now: float) -> float:
        """When the listener needs the next group, and the endpoint's Flushes allow it."""
        needed_at = self._needed_at(utterance, now)
        if needed_at == math.inf:
            return math.inf
        open_s = utterance.open_chars * utterance.seconds_per_char
        more_at = gate.spread_at(math.inf, now)
        if more_at > now:  # the one for the end may go as well, if the end can wait for another while this is heard
            heard_s = self.buffered_s(utterance, now) + open_s - self.flush_latency_s - DRY_LEAST_S
            spread_at = more_at - max(0.0, heard_s)
        else:
            spread_at = gate.spread_at(open_s * self._grown(utterance, now), now)
        return max(needed_at, spread_at, gate.flush_at(now))

    def _needed_at(self, utterance: Utterance, now: float) -> float:
        """When the listener needs the next group; inf when that depends on something else."""
        due_in_s = self._due_in_s(utterance, now)
        if due_in_s > 0 and self._stands_still:
            return math.inf
        return now + max(0.0, due_in_s)

    def _grown(self, utterance: Utterance, now: float) -> float:
        """How many times what waits for a Flush counts, for the speed at which the model writes.

        Told anew when there is more text: a wait does not grow while it lasts.
        """
        said_chars, growth = self._growth
        if utterance.said_chars != said_chars and self._first_flush_at is not None:
            if self._first_chars is None:
                self._first_chars = utterance.said_chars - utterance.open_chars
            written_s = (utterance.said_chars - self._first_chars) * utterance.seconds_per_char
            speed = (written_s + GROWTH_KNOWN_S) / (now - self._first_flush_at + GROWTH_KNOWN_S)
            growth = math.pow(min(GROWTH_MOST, max(1.0, speed)), GROWTH_POWER)
            self._growth = (utterance.said_chars, growth)
        return growth

    def _due_in_s(self, utterance: Utterance, now: float) -> float:
        """How long the listener can do without the next group."""
        open_s = utterance.open_chars * utterance.seconds_per_char
        spare_s = max(DRY_LEAST_S, DRY_S * min(1.0, open_s / GROWN_S))
        return self.buffered_s(utterance, now) - self.flush_latency_s - spare_s

    def _waits_for_more(self, utterance: Utterance, now: float) -> bool:
        """Whether the listener needs the open group, and it waits only because it is too small for a Flush."""
        if self.pace is Pace.NONE or utterance.first_group or utterance.must_flush or utterance.peek() is not None:
            return False
        return not utterance.finished and self._due_in_s(utterance, now) <= 0

    @property
    def _stands_still(self) -> bool:
        """Whether the listener's position changes only when something is reported or handed out, not with the clock."""
        return self.pace is Pace.NONE or self._played is not None or self._dry_at is None
