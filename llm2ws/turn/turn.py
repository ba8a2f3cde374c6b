"""A response made into speech, from its first token to its last byte of audio.

source -> Cleaner -> Fragmenter -> Utterance -> (Pacing) -> Slot     the feeder, and the speaker
Slot -> Utterance -> events                                          in the connection's reader, which never waits
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Self

from ..audio import AudioFormat
from ..errors import ConfigError, LocalProtocolError, SlowConsumerError, SpeechError
from ..speech.utterance.heard import Heard, Spoken
from ..speech.utterance.pacing import Pacing
from ..speech.utterance.utterance import Utterance
from ..text.fragments import Policy
from .events import Audio, Done, Outcome, Said, TurnEvent, TurnStats
from .feeder import Feeder, Source
from .speaker import Speaker
from .terms import SlotPool, Voicing

__all__ = ["Turn"]


class Turn:
    """One response. Use it with `async with`, and take its `events()` or its `audio()`.

    Leaving the block before the end interrupts: the source is closed, the endpoint is told, nothing of the turn reaches the
    next one. Errors are raised by `events()` and `audio()`, once what could be handed out has been.
    """

    def __init__(self, pool: SlotPool, voicing: Voicing, source: Source) -> None:
        self.stats = TurnStats()
        self.outcome: Outcome | None = None
        self._voicing = voicing
        self._utterance = Utterance(
            self.format,
            exact=voicing.policy is Policy.TOKEN,
            resume=voicing.resume,
            max_chars=voicing.max_chars,
        )
        self._pacing = Pacing(voicing.pace, ahead_s=voicing.ahead_s)
        self._feeder = Feeder(source, voicing, self._utterance, self.stats, emit=self._emit, since_start=self._since_start)
        self._speaker = Speaker(
            pool,
            voicing,
            self._utterance,
            self._pacing,
            self._feeder,
            self.stats,
            emit=self._emit,
            take_back=self._take_back,
            since_start=self._since_start,
        )
        self._out: deque[TurnEvent] = deque()
        self._ready = asyncio.Event()  # `_out` has something
        self._error: BaseException | None = None
        self._taken_at = 0.0
        self._timer: asyncio.TimerHandle | None = None  # of the look at who takes the audio
        self._stack: AsyncExitStack | None = None
        self._started_at = 0.0

    @property
    def format(self) -> AudioFormat:
        """Of the audio."""
        return self._voicing.format

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise LocalProtocolError("this turn was started before", hint="make a new one")
        self._loop = asyncio.get_running_loop()
        self._started_at = self._taken_at = self._loop.time()
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._feeding = tasks.create_task(self._feeder.run(self._speaker.go_on))
            self._speaking = tasks.create_task(self._speak())
            stack.callback(self._stop, Outcome.INTERRUPTED)  # however it is left, even while it begins
            await asyncio.sleep(0)  # a task that never began could not close the source
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        assert self._stack is not None
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
                    self._speaker.wake()
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
        self._speaker.wake()

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

    async def _speak(self) -> None:
        try:
            await self._speaker.run()
        except (SpeechError, ConfigError) as exc:
            self._lose(exc)
        if self.outcome is None:
            self._finish(Outcome.CUT_SHORT if self._feeder.error else Outcome.DONE, self._feeder.error)

    def _stop(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """End the turn before its time: in this order, nothing more is handed out, the source is closed, the endpoint told."""
        # When the endpoint has finished and the listener has not, there is still audio to be kept from them.
        if self.outcome is None or any(isinstance(event, Audio) for event in self._out):
            if not isinstance(error, SpeechError):  # after which the listener still gets what came before it
                self._out = deque(event for event in self._out if not isinstance(event, Audio | Said | Done))
            played_s = self._pacing.played_s(self._loop.time())
            self._finish(outcome, error)
            self._feeding.cancel()
            self._speaker.stop(played_s=played_s)
            self._speaking.cancel()

    def _finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        self.outcome, self._error = outcome, error
        self.stats.done_s = self._since_start()
        self.stats.audio_s = self._utterance.released_s
        self.stats.unspeakable_chars = self._utterance.unspeakable_chars
        self.stats.left_out_chars = self._utterance.left_out_chars
        self._feeder.stop()
        self._speaker.finish()
        if self._timer is not None:
            self._timer.cancel()
        self._emit(Done(outcome, self.stats, self.spoken))

    def _lose(self, error: SpeechError | ConfigError | SlowConsumerError) -> None:
        self._stop(Outcome.LOST, error)

    # What is there to be taken

    def _emit(self, event: TurnEvent) -> None:
        self._out.append(event)
        self._ready.set()
        if isinstance(event, Audio) and self._timer is None:
            self._taken_at = max(self._taken_at, self._loop.time())
            self._check_consumer_at(self._loop.time() + self._voicing.slow_consumer_s)

    def _take_back(self, cut_s: float) -> None:
        """What would be heard from there on is not: it will be said again."""
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

    def _check_consumer_at(self, at: float) -> None:
        self._timer = self._loop.call_at(at, self._check_consumer)

    def _check_consumer(self) -> None:
        self._timer = None
        if self.outcome is not None or not any(isinstance(event, Audio) for event in self._out):
            return
        waited_s = self._loop.time() - self._taken_at
        if waited_s >= self._voicing.slow_consumer_s:
            what = f"nobody took the audio for {waited_s:.0f} s"
            self._lose(SlowConsumerError(what, hint="take it faster, or interrupt the turn", waited_s=waited_s))
        else:
            self._check_consumer_at(self._taken_at + self._voicing.slow_consumer_s)

    def _since_start(self) -> float:
        return self._loop.time() - self._started_at
