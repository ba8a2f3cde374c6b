"""The way from the utterance to an endpoint, and what comes from there: over one place after another, until all is spoken."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import assert_never

from ..errors import SpeechError, TurnLost
from ..links.endpoint import Endpoint
from ..speech import messages
from ..speech.slot import Slot
from ..speech.utterance.heard import Saying
from ..speech.utterance.pacing import Pacing, Step
from ..speech.utterance.seam import Seam
from ..speech.utterance.utterance import GROUP_S, Released, Utterance
from .events import Audio, Notice, NoticeKind, Said, TurnEvent, TurnStats
from .feeder import Feeder
from .terms import SlotPool, Voicing

__all__ = ["Speaker"]

SPILL_AFTER_S = 1.0  # of waiting for a limit
DELAY_S = 1.0  # of waiting, after which a person may be told
LOST_IN_A_ROW = 3  # connections that were lost with little or nothing said on them: they are not tried for ever
GOT_ON_S = 0.5  # of audio on a connection, and the next one is worth while


class Speaker:
    """Speaks one utterance. `run` is to be a task; `stop` ends it before its time.

    `emit` takes what happens; `take_back` undoes what was emitted and not yet taken, from a place in the audio on (seconds).
    """

    def __init__(
        self,
        pool: SlotPool,
        voicing: Voicing,
        utterance: Utterance,
        pacing: Pacing,
        feeder: Feeder,
        stats: TurnStats,
        *,
        emit: Callable[[TurnEvent], None],
        take_back: Callable[[float], None],
        since_start: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._voicing = voicing
        self._floor = voicing.floor
        self._utterance = utterance
        self._pacing = pacing
        self._feeder = feeder
        self._stats = stats
        self._emit = emit
        self._take_back = take_back
        self._since_start = since_start
        self._over = False
        self._woken = asyncio.Event()
        self._slot: Slot | None = None
        self._driven: Slot | None = None  # the same, while it waits for more to say
        self._endpoint: Endpoint | None = None  # of `_slot`
        self._endpoints = voicing.endpoints  # those that have not refused this text for good
        self._ended = False  # the endpoint was told that no more text comes
        self._stay = False  # no other place is to be had
        self._left: Slot | None = None  # the one before, whose connection takes over when this one's characters are used up
        self._lost_link: messages.Failed | None = None
        self._lost_in_a_row, self._lost_at_s = 0, 0.0  # connections; where in the audio the last one was lost
        self._acked_since = False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    async def run(self) -> None:
        """Speak until all is spoken. Raises SpeechError when it cannot be, and ConfigError for what cannot be asked for."""
        self._loop = asyncio.get_running_loop()
        async with self._floor.lock:
            self._utterance.seconds_per_char = self._floor.seconds_per_char
            try:
                slot = await self._lease(self._endpoints, self._floor.place)
                while not self._over:
                    next_slot = await self._drive(slot)
                    if next_slot is not None:
                        slot = next_slot
                    elif (failed := self._lost_link) is None:
                        return
                    else:
                        await asyncio.sleep(self._go_on_after(failed))
                        slot = await self._lease(self._endpoints, self._floor.place)
            finally:
                self._floor.seconds_per_char = self._utterance.seconds_per_char

    def stop(self, *, played_s: float) -> None:
        """Tell the endpoint to stop. `played_s`: how much of the audio was heard, in seconds."""
        if self._slot is not None:
            self._slot.cancel(played_s=played_s)

    def finish(self) -> None:
        """Nothing that comes from now on is passed on."""
        self._over = True
        for timer in self._timers.values():
            timer.cancel()

    def go_on(self) -> None:
        """There is more to say. What `run` would do is done here: waking it would cost a round of the event loop."""
        if self._driven is None or self._advance(self._driven):
            self._woken.set()

    def wake(self) -> None:
        """Audio has been taken or heard: look whether there is something to do."""
        self._woken.set()

    # Utterance to endpoint

    async def _lease(self, endpoints: Sequence[Endpoint], last: object, avoid: object = None) -> Slot:
        slot, endpoint = await self._pool.lease(endpoints, self._on_event, last=last, avoid=avoid)
        self._lost_link = None
        self._slot, self._floor.place = slot, slot.place
        if self._stats.connected_s is None:
            self._stats.connected_s = self._since_start()
        # Where only the end of a turn makes the endpoint finish, a group is the whole turn.
        self._utterance.group_s = GROUP_S if slot.traits.audio_waits_for_flush else math.inf
        if self._endpoint is not None and endpoint != self._endpoint:
            self._fail_over(endpoint)
        self._endpoint = endpoint
        return slot

    async def _drive(self, slot: Slot) -> Slot | None:
        """Say the turn over one place, until that is free again; or until it is time to move to another, which is given."""
        self._ended, self._stay = False, not slot.traits.audio_waits_for_flush
        if slot.spent_at < math.inf:
            self._arm(self._grow_old, slot.spent_at)
        while slot.live:
            self._woken.clear()
            if self._advance(slot):
                try:
                    return await self._move(slot)
                except SpeechError:
                    self._stay = True  # this one is better than none
                    continue
            self._driven = slot
            await self._woken.wait()
            self._driven = None
        return None

    def _grow_old(self) -> None:
        """The connection is near the end of its life: move before it comes, even while the model is silent."""
        self._woken.set()

    def _advance(self, slot: Slot) -> bool:
        """Take the steps that can be taken now. Whether it is time to move to another place."""
        self._feeder.hungry = False
        while slot.live:
            now = self._loop.time()
            if self._ended and not self._utterance.open_chars:
                return False
            step = self._next_step(slot, now)
            if not (self._stay or self._ended) and self._utterance.between_groups and self._should_move(slot, step, now):
                return True
            match step.verb:
                case "speak":
                    self._say(slot)
                case "cut":
                    if not self._feeder.cut_clause():
                        self._feeder.hungry = True
                        self._look_again(step.wait_until)
                        return False
                case "flush" if not self._utterance.first_group and self._feeder.cut_clause():
                    pass  # the group takes it along
                case "flush" | "end":
                    if self._utterance.open_chars:
                        self._flushed(now)
                    if step.verb == "flush" or self._ended:  # a refused final Flush is sent again as a Flush
                        slot.flush()
                    else:
                        self._ended = True
                        slot.end()
                case "wait":
                    self._tell_delay(slot, now)
                    self._look_again(step.wait_until)
                    return False
        return False

    def _next_step(self, slot: Slot, now: float) -> Step:
        traits = slot.traits
        if traits.audio_waits_for_flush:
            return self._pacing.next_step(self._utterance, slot, now)
        return self._pacing.next_step_streaming(
            self._utterance, slot, now, quiet_since=slot.quiet_since, context_idle_s=traits.context_idle_s
        )

    def _look_again(self, at: float) -> None:
        if at < math.inf:
            self._arm(self._woken.set, at)

    def _should_move(self, slot: Slot, step: Step, now: float) -> bool:
        """Whether the next group should be said over another connection: this one is old, or its characters are used up."""
        if slot.spent:
            return True
        if not self._voicing.spill or step.verb != "wait":
            return False
        text = self._utterance.peek()
        if text is None or self._limit_wait_s(slot, now) < SPILL_AFTER_S:
            return False
        # Two connections take turns; when both are used up, the turn waits.
        return self._left is None or self._left.speak_at(len(text), now) <= now

    async def _move(self, slot: Slot) -> Slot:
        """Take a place on another connection of this endpoint, whose voice it is, then leave this one."""
        assert self._endpoint is not None  # `slot` is of it
        other = None if self._left is None else self._left.place
        next_slot = await self._lease([self._endpoint], other, avoid=slot.place)
        self._left = slot
        slot.listener = _ignore
        slot.cancel()  # of text that was sent and not flushed, which is said again over there
        self._utterance.lost()
        return next_slot

    def _limit_wait_s(self, slot: Slot, now: float) -> float:
        """How long the endpoint's limit on characters holds back the next text."""
        text = self._utterance.peek()
        return 0.0 if text is None else slot.speak_at(len(text), now) - now

    def _tell_delay(self, slot: Slot, now: float) -> None:
        """Once in a turn, that a limit makes the listener wait."""
        wait_s = self._limit_wait_s(slot, now)
        if wait_s > DELAY_S and not self._stats.delayed:
            self._stats.delayed = True
            self._emit(Notice(NoticeKind.DELAYED, f"the endpoint's limit on characters holds text back for {wait_s:.0f} s"))

    def _say(self, slot: Slot) -> None:
        text = self._utterance.say()
        slot.speak(text)
        if self._stats.first_speak_s is None:
            self._stats.first_speak_s = self._since_start()
        self._stats.sent_chars += len(text)
        self._feeder.make_room()

    def _flushed(self, now: float) -> None:
        self._utterance.flush()
        self._pacing.flushed(now)
        self._stats.flushes += 1
        if self._stats.first_flush_s is None:
            self._stats.first_flush_s = self._since_start()

    def _go_on_after(self, failed: messages.Failed) -> float:
        """A place was lost: how long to wait before going on at another, in seconds. Raises TurnLost if that is no use."""
        self._pacing.lost()
        got_on = self._acked_since or self._utterance.released_s > self._lost_at_s + GOT_ON_S
        self._lost_in_a_row = 1 if got_on else self._lost_in_a_row + 1
        self._lost_at_s, self._acked_since = self._utterance.released_s, False
        tries = LOST_IN_A_ROW * len(self._voicing.endpoints)  # the pool leaves one alone that has failed so often
        if failed.retry_s is None:  # it would fail again here, but not necessarily at another endpoint
            self._endpoints = tuple(endpoint for endpoint in self._endpoints if endpoint != self._endpoint)
        if not self._endpoints or self._lost_in_a_row >= tries or not self._utterance.lost():
            raise TurnLost(failed.what, hint=failed.hint, delivered_s=self._utterance.released_s)
        self._stats.resumed += 1
        if not self._utterance.repeating:  # else it is told when the place is found
            self._emit(Notice(NoticeKind.RESUMED, failed.what))
        # A connection that was lost is the pool's to replace, which has delays of its own.
        return (failed.retry_s or 0.0) if failed.scope is messages.Scope.CONTEXT else 0.0

    def _fail_over(self, endpoint: Endpoint) -> None:
        """Another voice goes on, so there is no seam: what was partly heard is said again from its start."""
        cut_s, repeated = self._utterance.restart(self._pacing.handed_s)
        self._stats.repeated_chars += repeated
        self._take_back(cut_s)
        name = endpoint.name or endpoint.dialect.name
        self._emit(Notice(NoticeKind.FAILED_OVER, f"{name} goes on; {repeated} characters are said again"))

    # What comes from the endpoint. Called by the connection's reader: never waits

    def _on_event(self, event: messages.Event) -> None:
        now = self._loop.time()
        if self._over:
            return
        match event:
            case messages.Audio(data=data):
                self._pacing.audio_came(now)
                self._release(self._utterance.received(data))
            case messages.Timed(words=words, from_here=from_here):
                self._release(self._utterance.timed(words, from_here=from_here))
            case messages.FlushAcked():
                self._acked_since = True
                self._pacing.acked(now)
                self._release(self._utterance.acked())
            case messages.FlushRefused():
                self._pacing.refused()
                self._utterance.refused()
                self._stats.refused_flushes += 1
            case messages.Ended():
                self._release(self._utterance.ended())
                if not self._utterance.complete:
                    what = "the endpoint ended the turn before its text did"
                    self._lost_link = messages.Failed(messages.Scope.CONTEXT, what, "try again", retry_s=0.0)
            case messages.Cancelled():
                self._lost_link = messages.Failed(messages.Scope.CONTEXT, "the endpoint stopped the turn by itself")
            case messages.Failed():
                self._lost_link = event
            case messages.Opened() | messages.Warned() | messages.Unknown() | messages.CancelRefused():
                return
            case _:
                assert_never(event)
        self._woken.set()

    def _release(self, released: list[Released]) -> None:
        for item in released:
            if isinstance(item, Saying):
                self._emit(Said(item.text, (item.start, item.end), item.at_s))
            elif isinstance(item, Seam):
                detail = "went on where the lost connection had broken off"
                self._emit(Notice(NoticeKind.RESUMED, detail, item.overlap_s, item.confidence))
            else:
                if self._stats.first_audio_s is None:
                    self._stats.first_audio_s = self._since_start()
                self._emit(Audio(item, self._stats.audio_s))
                self._stats.audio_s += self._voicing.format.seconds(len(item))

    # Timers, one for each thing to do

    def _arm(self, what: Callable[[], None], at: float) -> None:
        if (timer := self._timers.get(what)) is not None:
            timer.cancel()
        self._timers[what] = self._loop.call_at(at, self._fire, what)

    def _fire(self, what: Callable[[], None]) -> None:
        del self._timers[what]
        if not self._over:
            what()


def _ignore(event: messages.Event) -> None:
    """The listener of a place that has been left."""
