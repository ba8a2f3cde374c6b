"""A response made into speech, from its first token to its last byte of audio.

source -> Cleaner -> Fragmenter -> Utterance -> (Pacing) -> Slot     the feeder, and the speaker
Slot -> Utterance -> events                                          in the connection's reader, which never waits
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Self

from ..audio import AudioFormat
from ..errors import ConfigError, LocalProtocolError, SlowConsumerError, SpeechError
from ..speech.utterance.heard import Heard, Spoken
from .events import Audio, Done, Outcome, TurnEvent, TurnStats
from .feeder import Feeder, Source
from .options import SlotPool, TurnOptions
from .speaker import Speaker
from .state import TurnState

__all__ = ["Turn"]

CLEANUP_S = 0.25  # How long an interruption waits for the source to be closed; leaving the turn waits for its end.


class Turn:
    """One response. Use it with `async with`, and take its `events()` or its `audio()`.

    Leaving the block before the end interrupts: the source is closed, the endpoint is told, nothing of the turn reaches the
    next one. Errors are raised by `events()` and `audio()`, once what could be handed out has been.
    """

    def __init__(self, pool: SlotPool, options: TurnOptions, source: Source) -> None:
        self.outcome: Outcome | None = None
        self._options = options
        self._state = TurnState(options)
        self._speaker = Speaker(pool, self._state)
        self._feeder = Feeder(source, self._state, on_text=self._speaker.text_came)
        self._tasks: list[asyncio.Task[None]] = []  # feeder and speaker
        self._error: BaseException | None = None
        self._taken_at = 0.0  # when an event was last taken, or the first audio came; monotonic seconds
        self._timer: asyncio.TimerHandle | None = None  # of the look at who takes the audio
        self._stack: AsyncExitStack | None = None

    @property
    def format(self) -> AudioFormat:
        """The format of the audio."""
        return self._options.format

    @property
    def stats(self) -> TurnStats:
        """Where the time went, and what was counted, so far."""
        return self._state.stats

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise LocalProtocolError("this turn was started before", hint="make a new one")
        self._state.started_at = self._taken_at = asyncio.get_running_loop().time()
        async with AsyncExitStack() as stack:
            stack.callback(self._report)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._tasks = [tasks.create_task(self._feeder.run()), tasks.create_task(self._speak())]
            stack.callback(self._stop, Outcome.INTERRUPTED)  # however it is left, even while it begins
            await asyncio.sleep(0)  # a task that never began could not close the source
            self._check_consumer_in(self._options.slow_consumer_s)
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
        loop, out, pacing = asyncio.get_running_loop(), self._state.out, self._state.pacing
        bytes_per_second = self.format.bytes_per_second
        while True:
            while out.events:
                event = out.events.popleft()
                now = self._taken_at = loop.time()
                if isinstance(event, Audio):
                    pacing.handed_out(len(event.data) / bytes_per_second, now)
                    if pacing.handed_s >= self._speaker.due_s:
                        self._speaker.listener_moved()
                yield event
                if isinstance(event, Done):
                    if self._error is not None:
                        raise self._error
                    return
            if self.outcome is not None:
                return  # `Done` was taken by an earlier call
            out.audio_since = math.inf
            out.ready.clear()
            await out.ready.wait()

    async def audio(self) -> AsyncGenerator[bytes, None]:
        """Yield the audio alone: whole samples in `format`."""
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Audio):
                    yield event.data

    def played(self, position_s: float) -> None:
        """Say how much of the turn's audio has been heard. Without it, it is reckoned from when audio was taken."""
        self._check_started()
        self._state.pacing.played(position_s, asyncio.get_running_loop().time())
        self._speaker.listener_moved()

    async def interrupt(self, played_s: float | None = None) -> Heard:
        """Stop now: no more audio is handed out, the source is closed, the endpoint is told. Gives what was heard.

        `played_s`: seconds of the turn's audio that were heard; None where that is not known better than here. A source whose
        cleanup takes long is not waited for: leaving the turn does that.
        """
        self._check_started()
        now, pacing = asyncio.get_running_loop().time(), self._state.pacing
        if played_s is not None:
            pacing.played(played_s, now)
        heard = self.spoken.split(pacing.played_s(now) if played_s is None else played_s)
        self._stop(Outcome.INTERRUPTED)
        await asyncio.wait(self._tasks, timeout=CLEANUP_S)
        return heard

    @property
    def spoken(self) -> Spoken:
        """What has been spoken so far. What it gives stays as it is when the turn goes on."""
        return self._state.spoken

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
        out = self._state.out
        # When the endpoint has finished and the listener has not, there is still audio to be kept from them.
        if self.outcome is None or out.has_audio:
            if not isinstance(error, SpeechError):  # after which the listener still gets what came before it
                out.drop_speech()
            played_s = self._state.pacing.played_s(asyncio.get_running_loop().time())
            self._finish(outcome, error)
            self._speaker.stop(played_s=played_s)
            for task in self._tasks:
                task.cancel()

    def _finish(self, outcome: Outcome, error: BaseException | None = None) -> None:
        self.outcome, self._error = outcome, error
        utterance = self._state.utterance
        self.stats.done_s = self._state.since_start()
        self.stats.audio_s = utterance.released_s
        self.stats.unspeakable_chars = utterance.unspeakable_chars
        self.stats.left_out_chars = utterance.left_out_chars
        self.stats.unheard_chars = utterance.unheard_chars
        self._feeder.stop()
        self._speaker.finish()
        if self._timer is not None:
            self._timer.cancel()
        self._state.out.put(Done(outcome, self.stats, self.spoken))

    def _lose(self, error: SpeechError | ConfigError | SlowConsumerError) -> None:
        self._stop(Outcome.LOST, error)

    def _report(self) -> None:
        """Call the hook of the end of the turn."""
        if self._options.on_done is not None and self.outcome is not None:
            self._options.on_done(Done(self.outcome, self.stats, self.spoken))

    # Who takes the audio

    def _check_consumer_in(self, seconds: float) -> None:
        if seconds < math.inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._check_consumer)

    def _check_consumer(self) -> None:
        limit_s = self._options.slow_consumer_s
        if not self._state.out.has_audio:
            self._check_consumer_in(limit_s)
            return
        waited_s = asyncio.get_running_loop().time() - max(self._taken_at, self._state.out.audio_since)
        if waited_s < limit_s:
            self._check_consumer_in(limit_s - waited_s)
        else:
            what = f"nobody took the audio for {waited_s:.0f} s"
            self._lose(SlowConsumerError(what, hint="take it faster, or interrupt the turn", waited_s=waited_s))
