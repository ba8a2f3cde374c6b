"""When to send text, when to flush, how far ahead of the listener to ask, and how long a pause of the model is waited out.

A listener hears silence when what was asked for runs out, and pays for what was asked for in vain when they interrupt. So the
first fragment is flushed at once; later groups grow for as long as the audio that is still to be played allows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from ...text.fragments import Hold
from ..slot import Gate
from .steps import Act, Due, Step, Wait
from .utterance import Utterance

__all__ = ["Pace", "Pacing", "pause_s"]

AHEAD_S = 30.0  # of speech asked for and not heard yet, at most
# The next group is flushed when less than this is left to be heard. A small group waits longer, because it may still grow, and
# each group costs one of the endpoint's Flushes.
DRY_S = 2.0
RESERVE_AFTER_S = 8.0  # After such a wait for a Flush, a group within a turn may take one of the reserve.
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


class Pacing:
    """The listener's side of one turn. Times are monotonic seconds; positions are seconds of the turn's audio."""

    def __init__(self, pace: Pace, *, ahead_s: float = AHEAD_S) -> None:
        self.pace = pace
        self._ahead_s = ahead_s
        self.audio_awaited = True  # none has come since the last ack
        self.handed_s = 0.0  # audio that has gone to whoever takes it
        self._dry_at: float | None = None  # when all of it has been heard, by the clock
        self._played: tuple[float, float] | None = None  # position reported, and when
        self._flushed_at: deque[float] = deque()  # unanswered flushes
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
        """Take note that the listener is known to be at this position."""
        self._played = (position_s, now)

    def flushed(self, now: float) -> None:
        """Take note that a group was flushed."""
        self._flushed_at.append(now)
        if self._first_flush_at is None:
            self._first_flush_at = now

    def audio_came(self, now: float) -> None:
        """Take note that audio of the oldest flushed group came; only the first is of interest, while `audio_awaited`.

        It tells how long a Flush takes, not counting earlier groups.
        """
        if self._flushed_at and self.audio_awaited:
            self._latencies.append(now - max(self._flushed_at[0], self._acked_at))
        self.audio_awaited = False

    def acked(self, now: float) -> None:
        """Take note that the oldest flushed group was acknowledged, with or without audio."""
        if self._flushed_at:
            self._flushed_at.popleft()
        self.audio_awaited = True
        self._acked_at = now

    def refused(self) -> None:
        """Take note that the newest Flush was not carried out."""
        if self._flushed_at:
            self._flushed_at.pop()

    def lost(self) -> None:
        """Forget the connection: Flushes on their way will not be answered."""
        self._flushed_at.clear()
        self.audio_awaited = True

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
        return max(0.0, self._asked_s(utterance) - self.played_s(now))

    def _asked_s(self, utterance: Utterance) -> float:
        """Return where the audio ends that was flushed, in seconds of the turn's audio."""
        open_s = utterance.open_chars * utterance.seconds_per_char
        return utterance.released_s + max(0.0, utterance.outstanding_s - open_s)

    @property
    def flush_latency_s(self) -> float:
        """From a Flush to its first audio: what nine of ten have stayed under."""
        if not self._latencies:
            return FIRST_AUDIO_S
        return sorted(self._latencies)[math.ceil(0.9 * len(self._latencies)) - 1]

    # The decision

    def due_at(self, due: Due, utterance: Utterance, now: float, quiet_since: float = -math.inf) -> float:
        """Return when this is due, as far as is known now; inf while the listener's position stands still before it.

        `quiet_since`: when text of the turn was last sent, or audio of it last came.
        """
        at = max(due.at, quiet_since + due.quiet_s) if due.quiet_s else due.at
        if due.low_s < math.inf:
            over_s = self._due_position_s(due, utterance) - self.played_s(now)
            if over_s > 0:
                at = math.inf if self._stands_still else max(at, now + over_s)
        return at

    def due_first(self, dues: Iterable[Due], utterance: Utterance, now: float, quiet_since: float = -math.inf) -> float:
        """Return when the first of several is due; inf for none."""
        return min((self.due_at(due, utterance, now, quiet_since) for due in dues), default=math.inf)

    def due_position_s(self, dues: Iterable[Due], utterance: Utterance) -> float:
        """Return how much audio has to be handed out for one of these to become due, in seconds of the turn's audio.

        It is 0 until the first has been handed out: from then on the clock tells. It is inf where handing out changes nothing.
        """
        if not self._stands_still:
            return math.inf
        position_s = min((self._due_position_s(due, utterance) for due in dues if due.low_s < math.inf), default=math.inf)
        if self._played is not None and self._played[0] < position_s:
            return math.inf
        return 0.0 if self.pace is Pace.LISTENER and self._dry_at is None and position_s < math.inf else position_s

    def _due_position_s(self, due: Due, utterance: Utterance) -> float:
        """Return where the listener is when no more than `low_s` is still to be heard."""
        if due.flushed:
            return self._asked_s(utterance) - self.flush_latency_s - due.low_s
        return utterance.released_s + utterance.outstanding_s - due.low_s

    def text_matters(self, utterance: Utterance) -> bool:
        """Return whether text, or its end, that has come while none waited to be sent may allow a step."""
        if utterance.peek() is not None:
            return True
        if utterance.open_chars and utterance.flushes >= IN_FLIGHT:
            return False
        return utterance.all_said or (self.pace is Pace.NONE and utterance.must_flush)

    def next_step(self, utterance: Utterance, gate: Gate, now: float) -> Step:
        """Return what to do now for a turn whose text flows while the model writes and whose audio waits for Flush."""
        dues: list[Due] = []
        for_ack = False
        if utterance.open_chars and not utterance.half_said:
            dues, for_ack = self._flush_dues(utterance, gate, now)
            if self.due_first(dues, utterance, now) <= now:
                return Act.END if utterance.all_said else Act.FLUSH
            needed = self._needed(utterance)
            if dues and self._may_grow(utterance) and self.due_at(needed, utterance, now) <= now:
                # What is written already may make it worth a Flush.
                return Wait(self.due_first(dues, utterance, now), tuple(dues), for_ack, cut=True)
            if dues and (held := self.held_back(utterance, gate, now)) is not None:
                dues.append(held)
        elif utterance.all_said:
            return Act.END
        elif self.pace is Pace.LISTENER and not utterance.first_group and utterance.peek() is None:
            # Even when a Flush has to wait: how much there is tells how long.
            dues = [self._needed(utterance)]
            if self.due_at(dues[0], utterance, now) <= now:
                return Wait(cut=True)
        if utterance.half_said or not (utterance.first_group and utterance.open_chars):
            speak = self._speak_due(utterance, gate, now)
            if speak is not None:
                if self.due_at(speak, utterance, now) <= now:
                    return Act.SPEAK
                dues.append(speak)
        return Wait(self.due_first(dues, utterance, now), tuple(dues), for_ack)

    def next_step_streaming(
        self, utterance: Utterance, gate: Gate, now: float, *, quiet_since: float, context_idle_s: float | None = None
    ) -> Step:
        """Return the same for an endpoint that speaks text as it comes, and wants one End.

        `context_idle_s`: after so long without audio the endpoint ends the context by itself. A Flush ends it before that, and
        the next one begins when it is over, so that their audio cannot mix.
        """
        if utterance.all_said:
            return Act.END
        if utterance.flushes:
            return Wait(for_ack=True)
        quiet = now >= quiet_since + QUIET_S
        missing_s = utterance.outstanding_s if quiet else 0.0  # an estimate of what does not come: nothing more comes
        dues = [] if quiet else [Due(quiet_s=QUIET_S)]
        speak = self._speak_due(utterance, gate, now, missing_s=missing_s)
        if speak is not None:
            if self.due_at(speak, utterance, now) <= now:
                return Act.SPEAK
            dues.append(speak)
        if context_idle_s is not None and utterance.open_chars:
            idle = Due(quiet_s=LAPSE_SHARE * context_idle_s)
            if self.due_at(idle, utterance, now, quiet_since) <= now:
                return Act.FLUSH
            dues.append(idle)
        if self.pace is Pace.LISTENER and utterance.said_chars and utterance.peek() is None:
            low = Due(low_s=missing_s + self.flush_latency_s + DRY_LEAST_S)
            if self._ahead_of_listener_s(utterance, now) <= low.low_s:
                return Wait(self.due_first(dues, utterance, now, quiet_since), tuple(dues), cut=True)
            dues.append(low)
        return Wait(self.due_first(dues, utterance, now, quiet_since), tuple(dues))

    def _ahead_of_listener_s(self, utterance: Utterance, now: float) -> float:
        """Seconds of audio that the listener has not heard, of all text that was sent."""
        return utterance.released_s + utterance.outstanding_s - self.played_s(now)

    def _speak_due(self, utterance: Utterance, gate: Gate, now: float, *, missing_s: float = 0.0) -> Due | None:
        """When the next text may be sent; None when there is none. `missing_s`: of audio that was asked for and never comes."""
        text = utterance.peek()
        if text is None:
            return None
        ahead_s = self._ahead_of_listener_s(utterance, now) - missing_s
        low_s = max(0.0, self._ahead_s - len(text) * utterance.seconds_per_char)
        if ahead_s > low_s and not (utterance.half_said and utterance.open_chars):
            return Due(low_s=low_s + missing_s)
        # A group that is said again is said whole, however long it is: nothing comes before its Flush.
        return Due(gate.speak_at(len(text), now))

    def _flush_dues(self, utterance: Utterance, gate: Gate, now: float) -> tuple[list[Due], bool]:
        """When the open group should be flushed: at the first of these; and whether an ack may change that."""
        if utterance.flushes >= IN_FLIGHT:
            return [], True
        final = utterance.all_said
        # What is said again has to come up to where it broke off before it gives anything new: it does not wait to be needed.
        if utterance.first_group or utterance.repeating or (final and self.pace is Pace.NONE):
            return [Due(gate.flush_at(now, final=final or not utterance.flushes))], False
        if final:  # it need not take from the reserve while there is something to hear
            reserve_at = gate.flush_at(now, final=True)
            return [Due(max(reserve_at, gate.flush_at(now))), replace(self._needed(utterance), at=reserve_at)], False
        if not utterance.must_flush:
            speak = self._speak_due(utterance, gate, now)
            if speak is not None and self.due_at(speak, utterance, now) <= now:
                return [], False  # the group may still grow, at no cost
        if self.pace is Pace.NONE:
            if utterance.flushes and not utterance.must_flush:
                return [], True
            return [Due(gate.flush_at(now, final=not utterance.flushes))], False
        return self._low_dues(utterance, gate, now)

    def _low_dues(self, utterance: Utterance, gate: Gate, now: float) -> tuple[list[Due], bool]:
        """When the listener needs the next group, and the endpoint's Flushes allow it; and whether an ack may change that."""
        needed = self._needed(utterance)
        open_s = utterance.open_chars * utterance.seconds_per_char
        more_at = gate.spread_at(math.inf, now)
        if more_at > now:  # the one for the end may go as well, if the end can wait for another while this is heard
            heard_s = self.buffered_s(utterance, now) + open_s - self.flush_latency_s - DRY_LEAST_S
            spread_at = more_at - max(0.0, heard_s)
        else:
            spread_at = gate.spread_at(open_s * self._grown(utterance, now), now)
        at = max(spread_at, gate.flush_at(now))
        dues = [replace(needed, at=at)]
        if at > now + RESERVE_AFTER_S:  # Longer than Flushes that are spread ever wait: they were used up before this turn.
            dues.append(Due(gate.flush_at(now, final=True), low_s=DRY_LEAST_S, flushed=True))
        return dues, at > now  # An ack tells how much speech waits.

    def held_back(self, utterance: Utterance, gate: Gate, now: float) -> Due | None:
        """Return when the listener runs dry while all Flushes are used up; None where that is not to come, or has come."""
        dry = Due(low_s=DRY_S, flushed=True)
        if gate.flush_at(now, final=True) <= now or self.due_at(dry, utterance, now) <= now:
            return None
        return dry

    def flush_wait_s(self, utterance: Utterance, gate: Gate, now: float) -> float:
        """Return how long a Flush that the listener needs is held back by the endpoint's limit, in seconds."""
        if not utterance.open_chars or utterance.half_said or utterance.flushes >= IN_FLIGHT:
            return 0.0
        if self.pace is Pace.LISTENER and self.buffered_s(utterance, now) > DRY_S:
            return 0.0
        return max(0.0, gate.flush_at(now, final=True) - now)

    def _needed(self, utterance: Utterance) -> Due:
        """When the listener needs the next group."""
        open_s = utterance.open_chars * utterance.seconds_per_char
        return Due(low_s=max(DRY_LEAST_S, DRY_S * min(1.0, open_s / GROWN_S)), flushed=True)

    def _may_grow(self, utterance: Utterance) -> bool:
        """Whether the open group waits only because it is too small for a Flush, and more text may come."""
        if self.pace is Pace.NONE or utterance.first_group or utterance.must_flush or utterance.finished:
            return False
        return utterance.peek() is None

    def _grown(self, utterance: Utterance, now: float) -> float:
        """Return how many times what waits for a Flush counts, for the speed at which the model writes.

        It is reckoned anew when there is more text: a wait does not grow while it lasts.
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

    @property
    def _stands_still(self) -> bool:
        """Whether the listener's position changes only when something is reported or handed out, not with the clock."""
        return self.pace is Pace.NONE or self._played is not None or self._dry_at is None
