"""The way from the utterance to an endpoint, and what comes from there: over one place after another, until all is spoken."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import assert_never

from ..errors import ConfigError, SpeechError, TurnLost
from ..links.endpoint import Endpoint
from ..speech import messages
from ..speech.slot import Slot
from ..speech.utterance.steps import Act, Step, Wait
from ..speech.utterance.utterance import GROUP_S
from .events import Notice, NoticeKind
from .options import SlotPool
from .state import TurnState

__all__ = ["Speaker"]

SPILL_AFTER_S = 1.0  # of waiting for a limit
DELAY_S = 1.0  # of waiting, after which a person may be told
LOST_IN_A_ROW = 3  # connections that were lost with little or nothing said on them: they are not tried for ever
GOT_ON_S = 0.5  # of audio on a connection, and the next one is worth while
UNHEARD_IN_A_ROW = 3  # groups without audio, after which the turn is lost
LATE_S = 1e-6  # what is due is looked at so much later: a difference of two times may be a little less than what they differ by


class Speaker:
    """Speaks the text of one turn. `run` is to be a task; `stop` ends it before its time.

    What to do next is decided when something has changed that it depends on: text came, an ack came that may allow more, a
    slot was lost, the listener has come to where the next audio has to be asked for. Audio by itself changes nothing.
    """

    def __init__(self, pool: SlotPool, state: TurnState) -> None:
        # A position of the listener, in seconds of the turn's audio, beyond which `listener_moved` has to be called; inf: none.
        self.due_s = math.inf
        self._pool = pool
        self._options = state.options
        self._conversation = state.options.conversation
        self._state = state
        self._utterance = state.utterance
        self._pacing = state.pacing
        self._stats = state.stats
        self._over = False
        self._woken = asyncio.Event()
        self._slot: Slot | None = None
        self._waiting: Slot | None = None  # the same, while it waits for more to do
        self._wait = Wait()  # what for
        self._wants_text = False  # there is none to be sent
        self._timer: asyncio.TimerHandle | None = None  # of the time at which the wait is over
        self._endpoint: Endpoint | None = None  # of `_slot`
        self._endpoints = state.options.endpoints  # those that have not refused this text for good
        self._ended = False  # the endpoint was told that no more text comes
        self._stay = False  # no other place is to be had
        self._left: Slot | None = None  # the one before, whose connection takes over when this one's characters are used up
        self._failed: messages.Failed | None = None  # how the slot was lost
        self._lost_in_a_row, self._lost_at_s = 0, 0.0  # slots; where in the audio the last one was lost
        self._acked_since = False
        self._unheard_in_a_row = 0  # groups

    async def run(self) -> None:
        """Speak until all is spoken. Raises SpeechError when it cannot be, and ConfigError for what cannot be asked for."""
        conversation = self._conversation
        async with conversation.lock:
            self._utterance.seconds_per_char = conversation.seconds_per_char
            try:
                async with self._warming():
                    while not (self._utterance.backlog_chars or self._utterance.finished):
                        self._woken.clear()
                        await self._woken.wait()
                if not self._utterance.complete:
                    await self._speak()
            finally:
                conversation.seconds_per_char = self._utterance.seconds_per_char

    @asynccontextmanager
    async def _warming(self) -> AsyncIterator[None]:
        """Have a connection opened while the model has not written anything yet."""
        if self._utterance.backlog_chars or self._utterance.finished:
            yield  # the lease opens one
            return
        warming = asyncio.get_running_loop().create_task(self._warm())
        try:
            yield
        finally:
            # Soon, and not now: the lease is to have asked for the connection that is being opened.
            asyncio.get_running_loop().call_soon(warming.cancel)

    async def _warm(self) -> None:
        # Why none is to be had is told by the lease, if there is text at all.
        with contextlib.suppress(SpeechError, ConfigError):
            await self._pool.warm(self._endpoints[0])

    async def _speak(self) -> None:
        slot = await self._lease(self._endpoints, self._conversation.place)
        while not self._over:
            next_slot = await self._speak_over(slot)
            if next_slot is not None:
                slot = next_slot
            elif (failed := self._failed) is None:
                return
            else:
                await asyncio.sleep(self._go_on_after(failed))
                slot = await self._lease(self._endpoints, self._conversation.place)

    def stop(self, *, played_s: float) -> None:
        """Tell the endpoint to stop. `played_s`: how much of the audio was heard, in seconds."""
        if self._slot is not None:
            self._slot.cancel(played_s=played_s)

    def finish(self) -> None:
        """Pass on nothing that comes from now on."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def text_came(self) -> None:
        """Say it, if that is what is waited for. It is done here: waking `run` would cost a round of the event loop."""
        if self._over:
            return
        if self._waiting is None or (
            self._wants_text and self._pacing.text_matters(self._utterance) and self._advance(self._waiting)
        ):
            self._woken.set()

    def listener_moved(self) -> None:
        """See anew when something is due: audio has been taken or heard, or its times are known better."""
        if self._waiting is not None and not self._over:
            self._watch(self._waiting)

    # Utterance to endpoint

    async def _lease(self, endpoints: Sequence[Endpoint], last: object, avoid: object = None) -> Slot:
        slot, endpoint = await self._pool.lease(endpoints, self._on_event, last=last, avoid=avoid, client=self._options.client)
        self._failed = None
        self._slot, self._conversation.place = slot, slot.place
        if self._stats.connected_s is None:
            self._stats.connected_s = self._state.since_start()
        # Where only the end of a turn makes the endpoint finish, a group is the whole turn.
        self._utterance.group_s = GROUP_S if slot.traits.audio_waits_for_flush else math.inf
        if self._endpoint is not None and endpoint != self._endpoint:
            self._fail_over(endpoint)
        self._endpoint = endpoint
        return slot

    async def _speak_over(self, slot: Slot) -> Slot | None:
        """Speak over one slot until it is free again, or until it is time to move to another, which is returned."""
        self._ended, self._stay = False, not slot.traits.audio_waits_for_flush
        while slot.live:
            self._woken.clear()
            if self._advance(slot):
                try:
                    return await self._move(slot)
                except SpeechError:
                    self._stay = True  # this one is better than none
                    continue
            self._waiting = slot
            await self._woken.wait()
            self._waiting = None
            if self._failed is not None:
                slot.cancel()  # Its endpoint gives no audio for what it was sent.
                return None
        return None

    def _advance(self, slot: Slot) -> bool:
        """Take the steps that can be taken now. Return whether it is time to move to another slot."""
        self._state.wants_clause = False
        while slot.live:
            now = asyncio.get_running_loop().time()
            step = Wait() if self._all_asked else self._next_step(slot, now)
            if self._may_move and self._utterance.between_groups and self._should_move(slot, step, now):
                return True
            match step:
                case Act.SPEAK:
                    self._say(slot)
                case Act.FLUSH if not self._utterance.first_group and self._state.cut_clause():
                    pass  # the group takes it along
                case Act.FLUSH | Act.END:
                    if self._utterance.open_chars:
                        self._flushed(now)
                    if step is Act.FLUSH or self._ended:  # a refused final Flush is sent again as a Flush
                        slot.flush()
                    else:
                        self._ended = True
                        slot.end()
                case Wait():
                    if step.cut and self._state.cut_clause():
                        continue
                    self._state.wants_clause = step.cut
                    if not step.cut:
                        self._tell_delay(slot, now)
                    self._wait, self._wants_text = step, not self._utterance.backlog_chars
                    self._watch(slot)
                    return False
                case _:
                    assert_never(step)
        return False

    @property
    def _all_asked(self) -> bool:
        """All audio of the turn has been asked for."""
        return self._ended and not self._utterance.open_chars

    @property
    def _may_move(self) -> bool:
        return not (self._stay or self._ended)

    def _next_step(self, slot: Slot, now: float) -> Step:
        traits = slot.traits
        if traits.audio_waits_for_flush:
            return self._pacing.next_step(self._utterance, slot, now)
        return self._pacing.next_step_streaming(
            self._utterance, slot, now, quiet_since=slot.quiet_since, context_idle_s=traits.context_idle_s
        )

    def _watch(self, slot: Slot) -> None:
        """Decide anew when what is waited for is due: see when that is, as the listener and the audio stand now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop, dues = asyncio.get_running_loop(), self._wait.dues
        now = loop.time()
        at = self._pacing.due_first(dues, self._utterance, now, slot.quiet_since) if dues else math.inf
        if self._may_move and now < slot.spent_at < at:
            at = slot.spent_at  # move before the end of its life comes, even while the model is silent
        self.due_s = self._pacing.due_position_s(dues, self._utterance)
        if at <= now:
            self._woken.set()
        elif at < math.inf:
            self._timer = loop.call_at(at + LATE_S, self._on_time, slot)

    def _on_time(self, slot: Slot) -> None:
        self._timer = None
        if slot is not self._waiting or self._over:
            return
        if self._may_move and slot.spent:
            self._woken.set()
        else:
            self._watch(slot)

    def _wants_ack(self, slot: Slot) -> bool:
        """Return whether an ack may allow a step: to send, or to move to another slot."""
        return self._wait.for_ack or (self._may_move and (slot.spent or self._options.spill))

    def _should_move(self, slot: Slot, step: Step, now: float) -> bool:
        """Return whether the next group should go over another connection: this one is old, or its limits are used up."""
        if slot.spent:
            return True
        if not self._options.spill or not isinstance(step, Wait):
            return False
        if max(self._limit_wait_s(slot, now), self._pacing.flush_wait_s(self._utterance, slot, now)) < SPILL_AFTER_S:
            return False
        # Two connections take turns; when both are used up, the turn waits.
        return self._left is None or (self._limit_wait_s(self._left, now) <= 0 and self._left.flush_at(now, final=True) <= now)

    async def _move(self, slot: Slot) -> Slot:
        """Take a place on another connection of this endpoint, whose voice it is, then leave this one."""
        assert self._endpoint is not None  # `slot` is of it
        next_slot = await self._lease([self._endpoint], self._left and self._left.place, avoid=slot.place)
        self._left = slot
        slot.listener = _ignore
        slot.cancel()  # of text that was sent and not flushed, which is said again over there
        self._utterance.lost()
        return next_slot

    def _limit_wait_s(self, slot: Slot, now: float) -> float:
        """Return how long the endpoint's limit on characters holds back the next text, in seconds."""
        text = self._utterance.peek()
        return 0.0 if text is None else slot.speak_at(len(text), now) - now

    def _tell_delay(self, slot: Slot, now: float) -> None:
        """Tell, once in a turn, that a limit makes the listener wait."""
        flush_wait_s = self._pacing.flush_wait_s(self._utterance, slot, now)
        for wait_s, limited in ((self._limit_wait_s(slot, now), "characters"), (flush_wait_s, "flushes")):
            if wait_s > DELAY_S and not self._stats.delayed:
                self._stats.delayed = True
                detail = f"the endpoint's limit on {limited} holds text back for {wait_s:.0f} s"
                self._state.out.put(Notice(NoticeKind.DELAYED, detail))

    def _say(self, slot: Slot) -> None:
        text = self._utterance.say()
        slot.speak(text)
        if self._stats.first_speak_s is None:
            self._stats.first_speak_s = self._state.since_start()
        self._stats.sent_chars += len(text)
        self._state.make_room()

    def _flushed(self, now: float) -> None:
        self._utterance.flush()
        self._pacing.flushed(now)
        self._stats.flushes += 1
        if self._stats.first_flush_s is None:
            self._stats.first_flush_s = self._state.since_start()

    def _go_on_after(self, failed: messages.Failed) -> float:
        """Return how long to wait before going on at another slot, in seconds. Raises TurnLost if that is no use."""
        self._pacing.lost()
        got_on = self._acked_since or self._utterance.released_s > self._lost_at_s + GOT_ON_S
        self._lost_in_a_row = 1 if got_on else self._lost_in_a_row + 1
        self._lost_at_s, self._acked_since = self._utterance.released_s, False
        tries = LOST_IN_A_ROW * len(self._options.endpoints)  # the pool leaves one alone that has failed so often
        if failed.retry_s is None:  # it would fail again here, but not necessarily at another endpoint
            self._endpoints = tuple(endpoint for endpoint in self._endpoints if endpoint != self._endpoint)
        if not self._endpoints or self._lost_in_a_row >= tries or not self._utterance.lost():
            raise TurnLost(failed.what, hint=failed.hint, delivered_s=self._utterance.released_s)
        self._stats.resumed += 1
        if not self._utterance.repeating:  # else it is told when the place is found
            self._state.out.put(Notice(NoticeKind.RESUMED, failed.what))
        # A connection that was lost is the pool's to replace, which has delays of its own.
        return (failed.retry_s or 0.0) if failed.scope is messages.Scope.CONTEXT else 0.0

    def _go_on_after_silence(self) -> None:
        """Say again, here and then at the next endpoint, a text that was acknowledged without audio; then go on without it."""
        what, hint = "the endpoint acknowledged text and gave no audio for it", "see whether the voice can say it"
        tries = self._utterance.silences
        if tries == 1 or (tries == 2 and len(self._endpoints) > 1):
            self._leave(messages.Failed(messages.Scope.CONTEXT, what, hint, 0.0 if tries == 1 else None))
            return
        chars, released = self._utterance.give_up_silent()
        self._state.out.put_speech(released)
        self._state.out.put(Notice(NoticeKind.UNHEARD, f"{what}: {chars} characters are left out"))
        self._unheard_in_a_row += 1
        nothing_heard = self._utterance.complete and not self._utterance.released_s
        if nothing_heard or self._unheard_in_a_row >= UNHEARD_IN_A_ROW:
            self._endpoints = ()  # The turn is lost.
            self._leave(messages.Failed(messages.Scope.CONTEXT, what, hint))

    def _leave(self, failed: messages.Failed) -> None:
        """Give the slot up: what still comes over it would be taken for what is said again."""
        self._failed = failed
        if self._slot is not None:
            self._slot.listener = _ignore

    def _fail_over(self, endpoint: Endpoint) -> None:
        """Another voice goes on, so there is no seam: what was partly heard is said again from its start."""
        cut_s, repeated = self._utterance.restart(self._pacing.handed_s)
        self._stats.repeated_chars += repeated
        self._state.out.take_back(cut_s)
        name = endpoint.name or endpoint.dialect.name
        self._state.out.put(Notice(NoticeKind.FAILED_OVER, f"{name} goes on; {repeated} characters are said again"))

    # What comes from the endpoint. Called by the connection's reader: never waits

    def _on_event(self, event: messages.Event) -> None:
        if self._over:
            return
        match event:
            case messages.AudioChunk(data=data):
                self._state.out.put_speech(self._utterance.received(data))
                if self._pacing.audio_awaited:
                    self._pacing.audio_came(asyncio.get_running_loop().time())
                    self.listener_moved()  # it is known better now how long a Flush takes
                return
            case messages.Timed(words=words, from_here=from_here):
                seconds_per_char = self._utterance.seconds_per_char
                self._state.out.put_speech(self._utterance.timed(words, from_here=from_here))
                if self._utterance.seconds_per_char != seconds_per_char:
                    self.listener_moved()
                return
            case messages.FlushAcked():
                self._pacing.acked(asyncio.get_running_loop().time())
                self._state.out.put_speech(self._utterance.acked())
                if self._utterance.silences:
                    self._go_on_after_silence()
                    self._woken.set()
                    return
                self._acked_since, self._unheard_in_a_row = True, 0
                if self._waiting is not None and not self._wants_ack(self._waiting):
                    self._watch(self._waiting)
                    return
            case messages.FlushRefused():
                self._pacing.refused()
                self._utterance.refused()
                self._stats.refused_flushes += 1
            case messages.Ended():
                self._state.out.put_speech(self._utterance.ended())
                if self._utterance.silences:
                    self._go_on_after_silence()
                if not self._utterance.complete and self._failed is None:
                    what = "the endpoint ended the turn before its text did"
                    self._failed = messages.Failed(messages.Scope.CONTEXT, what, "try again", retry_s=0.0)
            case messages.Cancelled():
                self._failed = messages.Failed(messages.Scope.CONTEXT, "the endpoint stopped the turn by itself")
            case messages.Failed():
                self._failed = event
            case messages.Opened() | messages.Warned() | messages.Unknown() | messages.CancelRefused():
                return
            case _:
                assert_never(event)
        self._woken.set()


def _ignore(event: messages.Event) -> None:
    """Take no notice: this is the listener of a slot that has been left."""
