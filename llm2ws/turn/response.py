"""A response made into speech, from its first token to its last byte of audio.

source -> Cleaner -> Fragmenter -> Utterance -> (Pacing) -> Slot     the feeder, and the speaker
Slot -> Utterance -> events                                          in the connection's reader, which never waits
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Self, assert_never

from ..audio import AudioFormat
from ..connection import Connection, Slot
from ..errors import ConfigError, LocalProtocolError, SlowConsumerError, SpeechError, TurnLost
from ..pool import Endpoint, Pool
from ..speech import messages
from ..speech.pacing import Pacing, Step
from ..speech.seam import Seam
from ..speech.spoken import Heard, Saying, Spoken
from ..speech.utterance import GROUP_S, Released, Utterance
from ..text.fragments import Policy
from .events import Audio, Done, Notice, NoticeKind, Outcome, Said, TurnEvent, TurnStats
from .feeder import Feeder, Source
from .voicing import Voicing

__all__ = ["Turn"]

SPILL_AFTER_S = 1.0  # of waiting for a limit
DELAY_S = 1.0  # of waiting, after which a person may be told
LOST_IN_A_ROW = 3  # connections that were lost with little or nothing said on them: they are not tried for ever
GOT_ON_S = 0.5  # of audio on a connection, and the next one is worth while


class Turn:
    """One response. Use it with `async with`, and take its `events()` or its `audio()`.

    Leaving the block before the end interrupts: the source is closed, the endpoint is told, nothing of the turn reaches the
    next one. Errors are raised by `events()` and `audio()`, once what could be handed out has been.
    """

    def __init__(self, pool: Pool, voicing: Voicing, source: Source, previous: Turn | None) -> None:
        self.stats = TurnStats()
        self.outcome: Outcome | None = None
        self._pool = pool
        self._voicing = voicing
        self._utterance = Utterance(
            self.format,
            exact=voicing.policy is Policy.TOKEN,
            resume=voicing.resume,
            max_chars=voicing.max_chars,
            group_s=GROUP_S if voicing.endpoints[0].dialect.traits.audio_waits_for_flush else math.inf,
        )
        self._feeder = Feeder(
            source, voicing, self._utterance, self.stats, emit=self._emit, go_on=self._go_on, since_start=self._since_start
        )
        self._previous = previous  # of the conversation, until this one speaks
        self.connection: Connection | None = None  # the last one that carried it
        self._pacing = Pacing(voicing.pace, ahead_s=voicing.ahead_s)
        self._out: deque[TurnEvent] = deque()
        self._ready = asyncio.Event()  # `_out` has something
        self._wake = asyncio.Event()  # the speaker has to look again
        self._slot: Slot | None = None
        self._driven: Slot | None = None  # the same, while the speaker waits for more to say
        self._ended = False  # the endpoint was told that no more text comes
        self._stay = False  # no other place is to be had
        self._endpoint: Endpoint | None = None  # of `_slot`
        self._endpoints = voicing.endpoints  # those that have not refused this text for good
        self._spilled_to: Connection | None = None  # the one that takes over when this one's characters are used up
        self._lost_link: messages.Failed | None = None
        self._error: BaseException | None = None
        self._lost_in_a_row, self._lost_at_s = 0, 0.0  # connections; where in the audio the last one was lost
        self._acked_since = False
        self._taken_at = 0.0
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._stack: AsyncExitStack | None = None
        self._started_at = 0.0

    @property
    def format(self) -> AudioFormat:
        """Of the audio."""
        return self._voicing.format

    @property
    def seconds_per_char(self) -> float:
        """How fast the voice speaks, as far as it has shown."""
        return self._utterance.seconds_per_char

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise LocalProtocolError("this turn was started before", hint="make a new one")
        self._loop = asyncio.get_running_loop()
        self._started_at = self._taken_at = self._loop.time()
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._feeding = tasks.create_task(self._feeder.run())
            self._speaking = tasks.create_task(self._speak())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        assert self._stack is not None
        self._stop(Outcome.INTERRUPTED)
        try:
            # Not told of the body's exception: the group would wrap it.
            await self._stack.aclose()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise

    # For whoever listens

    async def events(self) -> AsyncGenerator[TurnEvent, None]:
        """All that happens, in order, ending with `Done`. Then the turn's error is raised, if it has one."""
        self._check_started()
        while True:
            while self._out:
                event = self._out.popleft()
                now = self._taken_at = self._loop.time()
                if isinstance(event, Audio):
                    self._pacing.handed_out(self.format.seconds(len(event.data)), now)
                    self._wake.set()
                yield event
                if isinstance(event, Done):
                    if self._error is not None:
                        raise self._error
                    return
            self._ready.clear()
            if self.outcome is not None and not self._out:
                return  # `Done` was taken by an earlier call
            await self._ready.wait()

    async def audio(self) -> AsyncGenerator[bytes, None]:
        """The audio alone: whole samples in `format`."""
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Audio):
                    yield event.data

    def played(self, position_s: float) -> None:
        """Say how much of the turn's audio has been heard. Without it, it is reckoned from when audio was taken."""
        self._check_started()
        self._pacing.played(position_s, self._loop.time())
        self._wake.set()

    async def interrupt(self, played_s: float | None = None) -> Heard:
        """Stop now: no more audio is handed out, the source is closed, the endpoint is told. Gives what was heard.

        `played_s`: seconds of the turn's audio that were heard; None where that is not known better than here.
        """
        self._check_started()
        now = self._loop.time()
        if played_s is not None:
            self._pacing.played(played_s, now)
        heard = self.spoken.split(self._pacing.played_s(now) if played_s is None else played_s)
        self._stop(Outcome.INTERRUPTED)
        await asyncio.wait({self._feeding, self._speaking})
        return heard

    @property
    def spoken(self) -> Spoken:
        """What has been spoken so far. What it gives stays as it is when the turn goes on."""
        return self._utterance.spoken(self._feeder.text)

    def _check_started(self) -> None:
        if self._stack is None:
            raise LocalProtocolError("this turn was not started", hint="use it with `async with`")

    # The end

    def _stop(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """End the turn before its time: in this order, nothing more is handed out, the source is closed, the endpoint told."""
        # When the endpoint has finished and the listener has not, there is still audio to be kept from them.
        if self.outcome is None or any(isinstance(event, Audio) for event in self._out):
            self._out = deque(event for event in self._out if not isinstance(event, Audio | Said | Done))
            played_s = self._pacing.played_s(self._loop.time())
            self._finish(outcome, error)
            self._feeding.cancel()
            if self._slot is not None:
                self._slot.cancel(played_s=played_s)
            self._speaking.cancel()

    def _finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        self.outcome, self._error = outcome, error
        self.stats.done_s = self._since_start()
        self.stats.audio_s = self._utterance.released_s
        self.stats.unspeakable_chars = self._utterance.unspeakable_chars
        self.stats.left_out_chars = self._utterance.left_out_chars
        self._feeder.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._emit(Done(outcome, self.stats, self.spoken))
        self._wake.set()

    def _lose(self, error: SpeechError | ConfigError | SlowConsumerError) -> None:
        self._stop(Outcome.LOST, error)

    # The speaker: utterance to endpoint

    async def _speak(self) -> None:
        try:
            async with self._voicing.floor:
                if self._previous is not None:  # the same voice, and its connection
                    self._utterance.seconds_per_char = self._previous.seconds_per_char
                    self.connection, self._previous = self._previous.connection, None
                slot = await self._lease()
                while self.outcome is None:
                    next_slot = await self._drive(slot)
                    if next_slot is not None:
                        slot = next_slot
                    elif (delay_s := self._after_link()) is not None:
                        await asyncio.sleep(delay_s)
                        slot = await self._lease()
        except (SpeechError, ConfigError) as exc:
            self._lose(exc)

    async def _lease(self, avoid: Connection | None = None) -> Slot:
        slot, endpoint = await self._pool.lease(self._endpoints, self._on_event, last=self.connection, avoid=avoid)
        self._lost_link = None
        self._slot, self.connection = slot, slot.connection
        if self.stats.connected_s is None:
            self.stats.connected_s = self._since_start()
        if self._endpoint is not None and endpoint != self._endpoint:
            self._fail_over(endpoint)
        self._endpoint = endpoint
        return slot

    async def _drive(self, slot: Slot) -> Slot | None:
        """Say the turn over one place, until that is free again; or until it is time to move to another, which is given."""
        self._ended, self._stay = False, not slot.dialect.traits.audio_waits_for_flush
        if slot.connection.spent_at < math.inf:
            self._arm(self._grow_old, slot.connection.spent_at)
        while slot.live:
            self._wake.clear()
            if self._advance(slot):
                try:
                    return await self._move(slot)
                except SpeechError:
                    self._stay = True  # this one is better than none
                    continue
            self._driven = slot
            await self._wake.wait()
            self._driven = None
        return None

    def _grow_old(self) -> None:
        """The connection is near the end of its life: move before it comes, even while the model is silent."""
        self._wake.set()

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
        traits = slot.dialect.traits
        if traits.audio_waits_for_flush:
            return self._pacing.next_step(self._utterance, slot, now)
        return self._pacing.next_step_streaming(
            self._utterance, slot, now, quiet_since=slot.quiet_since, context_idle_s=traits.context_idle_s
        )

    def _look_again(self, at: float) -> None:
        if at < math.inf:
            self._arm(self._wake.set, at)

    def _go_on(self) -> None:
        """There is more to say. What the speaker would do is done here: waking it would cost a round of the event loop."""
        if self._driven is None or self._advance(self._driven):
            self._wake.set()

    def _should_move(self, slot: Slot, step: Step, now: float) -> bool:
        """Whether the next group should be said over another connection: this one is old, or its characters are used up."""
        if slot.connection.spent:
            return True
        if not self._voicing.spill or step.verb != "wait":
            return False
        text = self._utterance.peek()
        if text is None or self._limit_wait_s(slot, now) < SPILL_AFTER_S:
            return False
        # Two connections take turns; when both are used up, the turn waits.
        other = self._spilled_to
        return other is None or other.ended is not None or other.session.speak_at(len(text), now) <= now

    async def _move(self, slot: Slot) -> Slot:
        """Take a place on another connection, then leave this one."""
        left = slot.connection
        self.connection = self._spilled_to
        next_slot = await self._lease(avoid=left)
        self._spilled_to = left
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
        if wait_s > DELAY_S and not self.stats.delayed:
            self.stats.delayed = True
            self._emit(Notice(NoticeKind.DELAYED, f"the endpoint's limit on characters holds text back for {wait_s:.0f} s"))

    def _say(self, slot: Slot) -> None:
        text = self._utterance.say()
        slot.speak(text)
        if self.stats.first_speak_s is None:
            self.stats.first_speak_s = self._since_start()
        self.stats.sent_chars += len(text)
        self._feeder.make_room()

    def _flushed(self, now: float) -> None:
        self._utterance.flush()
        self._pacing.flushed(now)
        self.stats.flushes += 1
        if self.stats.first_flush_s is None:
            self.stats.first_flush_s = self._since_start()

    def _after_link(self) -> float | None:
        """The place is free: because the turn is complete (None), or it was lost and goes on elsewhere, after so many seconds.

        Raises TurnLost when it cannot.
        """
        failed = self._lost_link
        if failed is None:
            if self.outcome is None:
                outcome = Outcome.DONE if self._feeder.error is None else Outcome.CUT_SHORT
                self._finish(outcome, self._feeder.error)
            return None
        self._pacing.lost()
        got_on = self._acked_since or self._utterance.released_s > self._lost_at_s + GOT_ON_S
        self._lost_in_a_row = 1 if got_on else self._lost_in_a_row + 1
        self._lost_at_s, self._acked_since = self._utterance.released_s, False
        tries = LOST_IN_A_ROW * len(self._voicing.endpoints)  # the pool leaves one alone that has failed so often
        if failed.retry_s is None:  # it would fail again here, but not necessarily at another endpoint
            self._endpoints = tuple(endpoint for endpoint in self._endpoints if endpoint != self._endpoint)
        if not self._endpoints or self._lost_in_a_row >= tries or not self._utterance.lost():
            raise TurnLost(failed.what, hint=failed.hint, delivered_s=self._utterance.released_s)
        self.stats.resumed += 1
        if not self._utterance.repeating:  # else it is told when the place is found
            self._emit(Notice(NoticeKind.RESUMED, failed.what))
        # A connection that was lost is the pool's to replace, which has delays of its own.
        return (failed.retry_s or 0.0) if failed.scope is messages.Scope.CONTEXT else 0.0

    def _fail_over(self, endpoint: Endpoint) -> None:
        """Another voice goes on, so there is no seam: what was partly heard is said again from its start."""
        cut_s, repeated = self._utterance.restart(
            self._pacing.handed_s, group_s=GROUP_S if endpoint.dialect.traits.audio_waits_for_flush else math.inf
        )
        self.stats.repeated_chars += repeated
        self.stats.audio_s = cut_s
        kept: deque[TurnEvent] = deque()
        for event in self._out:
            if isinstance(event, Audio) and event.at_s + self.format.seconds(len(event.data)) > cut_s:
                n_bytes = self.format.bytes_for(max(0.0, cut_s - event.at_s))
                if n_bytes:
                    kept.append(Audio(event.data[:n_bytes], event.at_s))
            elif not (isinstance(event, Said) and event.at_s >= cut_s):
                kept.append(event)
        self._out = kept
        name = endpoint.name or endpoint.dialect.name
        self._emit(Notice(NoticeKind.FAILED_OVER, f"{name} goes on; {repeated} characters are said again"))

    # What comes from the endpoint. Called by the connection's reader: never waits

    def _on_event(self, event: messages.Event) -> None:
        now = self._loop.time()
        if self.outcome is not None:
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
                self.stats.refused_flushes += 1
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
        self._wake.set()

    def _release(self, released: list[Released]) -> None:
        for item in released:
            if isinstance(item, Saying):
                self._emit(Said(item.text, (item.start, item.end), item.at_s))
            elif isinstance(item, Seam):
                detail = "went on where the lost connection had broken off"
                self._emit(Notice(NoticeKind.RESUMED, detail, item.overlap_s, item.confidence))
            else:
                if self.stats.first_audio_s is None:
                    self.stats.first_audio_s = self._since_start()
                self._emit(Audio(item, self.stats.audio_s))
                self.stats.audio_s += self.format.seconds(len(item))

    def _emit(self, event: TurnEvent) -> None:
        self._out.append(event)
        self._ready.set()
        if isinstance(event, Audio) and self._check_consumer not in self._timers:
            self._taken_at = max(self._taken_at, self._loop.time())
            self._arm(self._check_consumer, self._loop.time() + self._voicing.slow_consumer_s)

    def _check_consumer(self) -> None:
        if not any(isinstance(event, Audio) for event in self._out):
            return
        waited_s = self._loop.time() - self._taken_at
        if waited_s >= self._voicing.slow_consumer_s:
            what = f"nobody took the audio for {waited_s:.0f} s"
            self._lose(SlowConsumerError(what, hint="take it faster, or interrupt the turn", waited_s=waited_s))
        else:
            self._arm(self._check_consumer, self._taken_at + self._voicing.slow_consumer_s)

    # Timers, one for each thing to do

    def _arm(self, what: Callable[[], None], at: float) -> None:
        if (timer := self._timers.get(what)) is not None:
            timer.cancel()
        self._timers[what] = self._loop.call_at(at, self._fire, what)

    def _fire(self, what: Callable[[], None]) -> None:
        del self._timers[what]
        if self.outcome is None:
            what()

    def _since_start(self) -> float:
        return self._loop.time() - self._started_at


def _ignore(event: messages.Event) -> None:
    """The listener of a place that has been left."""
