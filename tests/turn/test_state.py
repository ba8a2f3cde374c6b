from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llm2ws.sources.aside import Aside
from llm2ws.speech.dialects.deepgram_server import FlushIn
from llm2ws.testing import FaultySpeech, script, tokens
from llm2ws.turn import Audio, Done, Outcome, Said
from tests.turn.talk import CODING, FORMAT, STORY, talk


async def test_what_happens_is_told_in_order() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        source: AsyncIterator[str | Aside] = script(Aside("first"), *tokens(STORY), Aside("finish", {"reason": "stop"}))
        async with conversation.turn(source) as turn:
            events = [event async for event in turn.events()]
        assert [event.kind for event in events if isinstance(event, Aside)] == ["first", "finish"]
        said = [event for event in events if isinstance(event, Said)]
        assert "".join(event.text for event in said).split() == STORY.split()
        assert all(" ".join(STORY[slice(*event.span)].split()) == event.text.strip() for event in said)
        assert [event.at_s for event in said] == sorted(event.at_s for event in said)
        at_s = 0.0
        for event in events:
            if isinstance(event, Audio):
                assert event.at_s == pytest.approx(at_s)
                assert len(event.data) % 2 == 0
                at_s += FORMAT.seconds(len(event.data))
        done = events[-1]
        assert isinstance(done, Done)
        assert done.outcome is Outcome.DONE
        assert done.spoken.split(at_s) == (STORY, "", 0.0)
        stats = done.stats
        assert stats.audio_s == pytest.approx(at_s)
        times = [stats.first_token_s, stats.first_fragment_s, stats.first_speak_s, stats.first_flush_s, stats.first_audio_s]
        assert times == sorted(times)  # type: ignore[type-var]
        assert (stats.source_chars, stats.flushes) == (len(STORY), speech.count(FlushIn))
        assert [event async for event in turn.events()] == []


async def test_an_interruption_tells_what_was_heard() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        async with conversation.turn(script(*tokens(STORY))) as turn:
            async for event in turn.events():
                if isinstance(event, Done):
                    break
            half = await turn.interrupt(turn.stats.audio_s / 2)
        assert half.heard + half.unheard == STORY
        assert half.heard
        assert half.unheard
        assert half.heard[-1].isspace() or half.unheard[0].isspace()
        assert turn.outcome is Outcome.DONE  # it had been handed out to its end
