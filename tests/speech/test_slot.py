"""Whole turns over slots that answer from memory: what a turn needs of an endpoint is the Slot, and no connection."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random

import pytest

from llm2ws.audio import AudioFormat
from llm2ws.errors import ConnectFailed, TurnLost
from llm2ws.links.endpoint import Endpoint
from llm2ws.speech import messages
from llm2ws.speech.dialect import Setup, Traits
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.slot import Listener, Slot
from llm2ws.testing import Coding, Renderer, decode, script, tokens
from llm2ws.turn import Audio, Conversation, Notice, NoticeKind, Outcome, Said, Turn, TurnEvent

FORMAT = AudioFormat(sample_rate_hz=8_000)
CODING = Coding(char_samples=80, word_pause_s=0.06, sentence_pause_s=0.12, lead_in_s=0.0)
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."


class MemorySlot:
    """Speaks what it is given as soon as it is flushed. `breaks`: after the audio of its first Flush it fails.

    `mute`: a text with this word in it is acknowledged without audio; "" for none.
    """

    spent, spent_at, quiet_since = False, math.inf, 0.0
    traits = Traits()

    def __init__(self, listener: Listener, place: object, *, breaks: bool, mute: str = "") -> None:
        self.listener = listener
        self.on_over: Listener | None = None
        self.live = True
        self.place = place
        self.spoken: list[str] = []
        self._open = ""
        self._breaks = breaks
        self._mute = mute
        self._voice = Renderer(CODING, FORMAT.sample_rate_hz, Random(1))

    def speak(self, text: str) -> None:
        self._open += text

    def flush(self) -> None:
        text, self._open = self._open, ""
        self.spoken.append(text)
        if not (self._mute and self._mute in text):
            self._tell(messages.AudioChunk(self._voice.say(text)))
        self._tell(messages.FlushAcked())
        if self._breaks:
            self._tell(messages.Failed(messages.Scope.LINK, "the memory failed", "", 0.0))

    def end(self) -> None:
        if self._open:
            self.flush()
        self._tell(messages.Ended())

    def cancel(self, *, played_s: float | None = None) -> None:
        if self.live:
            self._over(messages.Cancelled())

    def speak_at(self, n_chars: int, now: float) -> float:
        return now

    def flush_at(self, now: float, *, final: bool = False) -> float:
        return now

    def spread_at(self, speech_s: float, now: float) -> float:
        return now

    def _tell(self, *events: messages.Event) -> None:
        for event in events:
            asyncio.get_running_loop().call_soon(self._tell_now, event)

    def _tell_now(self, event: messages.Event) -> None:
        if not self.live:
            return
        if isinstance(event, messages.Ended | messages.Failed):
            self._over(event)
        else:
            self.listener(event)

    def _over(self, event: messages.Event) -> None:
        self.live = False
        if self.on_over is not None:
            self.on_over(event)
        self.listener(event)


@dataclass
class MemoryPool:
    """Gives memory slots. `breaking`: so many of them fail after their first Flush. `away`: none is to be had."""

    breaking: int = 0
    mute: dict[str, str] = field(default_factory=dict)  # by the name of the endpoint
    away: bool = False
    slots: list[MemorySlot] = field(default_factory=list)

    async def lease(
        self,
        endpoints: Sequence[Endpoint],
        listener: Listener,
        *,
        last: object = None,
        avoid: object = None,
        client: Hashable = None,
    ) -> tuple[Slot, Endpoint]:
        if self.away:
            raise ConnectFailed("no memory")
        slot = MemorySlot(
            listener,
            object() if last is None else last,
            breaks=len(self.slots) < self.breaking,
            mute=self.mute.get(endpoints[0].name, ""),
        )
        self.slots.append(slot)
        return slot, endpoints[0]

    async def warm(self, endpoint: Endpoint) -> None:
        pass


def conversation(pool: MemoryPool, *names: str) -> Conversation:
    where = Deepgram(Setup("ws://127.0.0.1:1", "", FORMAT))
    return Conversation(pool, [Endpoint(where, name=name) for name in names or ("memory",)])


async def test_turns_are_spoken_from_memory() -> None:
    pool = MemoryPool()
    talk = conversation(pool)
    for text in (STORY, "And one more. "):
        turn = talk.turn(script(*tokens(text)))
        async with turn:
            audio = b"".join([chunk async for chunk in turn.audio()])
        assert decode(audio) == text.strip()
        assert turn.outcome is Outcome.DONE
        assert turn.spoken.complete
    assert pool.slots[0].place is pool.slots[1].place
    assert "".join(pool.slots[0].spoken).split() == STORY.split()


async def test_a_memory_that_fails_is_gone_on_from() -> None:
    pool = MemoryPool(breaking=2)
    async with conversation(pool).turn(script(*tokens(STORY))) as turn:
        events = [event async for event in turn.events()]
    assert decode(b"".join(event.data for event in events if isinstance(event, Audio))) == STORY
    assert [event.kind for event in events if isinstance(event, Notice)] == [NoticeKind.RESUMED] * 2
    assert len(pool.slots) == 3


async def test_an_interruption_is_told_to_the_slot() -> None:
    pool = MemoryPool()
    async with conversation(pool).turn(script(*tokens(STORY), math.inf)) as turn:
        async with aclosing(turn.audio()) as audio:
            await anext(audio)
        await turn.interrupt()
    assert turn.outcome is Outcome.INTERRUPTED
    assert not pool.slots[0].live


# An acknowledgement without audio


async def events_of(turn: Turn) -> list[TurnEvent]:
    async with turn:
        return [event async for event in turn.events()]


def audio_of(events: list[TurnEvent]) -> str:
    return decode(b"".join(event.data for event in events if isinstance(event, Audio)))


async def test_a_text_without_audio_is_said_again_once_and_then_left_out_and_told() -> None:
    pool = MemoryPool(mute={"memory": "sky"})
    turn = conversation(pool).turn(script(*tokens(STORY)))
    events = await events_of(turn)
    assert turn.outcome is Outcome.DONE
    unheard = "The sky is blue,"
    assert unheard not in audio_of(events)
    assert audio_of(events) == STORY.removeprefix(unheard).strip()
    assert sum("sky" in text for slot in pool.slots for text in slot.spoken) == 2
    assert [event.kind for event in events if isinstance(event, Notice)] == [NoticeKind.RESUMED, NoticeKind.UNHEARD]
    assert turn.stats.unheard_chars >= len(unheard)
    assert not turn.spoken.complete
    heard = turn.spoken.split(math.inf)
    assert unheard not in heard.heard
    assert unheard in heard.unheard
    assert not any("sky" in event.text for event in events if isinstance(event, Said))


async def test_a_text_without_audio_is_given_to_the_next_endpoint() -> None:
    pool = MemoryPool(mute={"one": "scattered"})
    turn = conversation(pool, "one", "two").turn(script(*tokens(STORY)))
    events = await events_of(turn)
    assert (audio_of(events), turn.outcome, turn.stats.unheard_chars) == (STORY, Outcome.DONE, 0)
    assert NoticeKind.FAILED_OVER in [event.kind for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize("text", ["Hello there, my friend.", STORY])
async def test_a_turn_of_which_nothing_is_heard_is_lost(text: str) -> None:
    pool = MemoryPool(mute={"memory": " "})
    turn = conversation(pool).turn(script(text))
    with pytest.raises(TurnLost, match="no audio"):
        await events_of(turn)
    assert turn.outcome is Outcome.LOST
    assert turn.spoken.split(math.inf).heard == ""


async def test_a_turn_without_text_needs_no_endpoint() -> None:
    turn = conversation(MemoryPool(away=True)).turn(script("<think>Which tool?</think>"))
    assert await events_of(turn)
    assert turn.outcome is Outcome.DONE
