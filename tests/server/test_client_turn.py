"""A turn for a client: within its limits, told when the daemon stops, counted once however it ends."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from llm2ws.errors import ConnectFailed, SourceError
from llm2ws.server.client_turn import ClientTurn, StopReason, speak_to_client
from llm2ws.server.daemon import CLIENT, DAEMON
from llm2ws.server.problems import Problem
from llm2ws.settings.fields import ClientLimits, Server, Settings
from llm2ws.testing import FaultySpeech, decode, script, tokens
from llm2ws.turn import Audio, Done, Outcome
from tests.server.conftest import CODING, Running, Start
from tests.server.test_chat import TEXT
from tests.watch.test_metrics import value


class Request(dict[Any, Any]):
    """What `speak_to_client` reads of a request: who asks, and the daemon."""

    def __init__(self, daemon: Running) -> None:
        super().__init__({CLIENT: daemon.daemon.access.keyless_client})
        self.app = {DAEMON: daemon.daemon}


async def spoken(daemon: Running, source: Any) -> tuple[ClientTurn, str, Done]:
    request: Any = Request(daemon)
    conversation = daemon.daemon.service.conversation()
    async with speak_to_client(request, conversation, source, face="test") as client_turn:
        events = [event async for event in client_turn.events()]
    done = events[-1]
    assert isinstance(done, Done)
    return client_turn, decode(b"".join(event.data for event in events if isinstance(event, Audio))), done


def turns(daemon: Running, outcome: str) -> float:
    return value(daemon.daemon.metrics, f'llm2ws_turns_total{{face="test",outcome="{outcome}"}}')


async def test_a_turn_that_is_done(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    closed: list[bool] = []
    async with start() as daemon:
        with caplog.at_level(logging.INFO, "llm2ws.turn"):
            client_turn, said, done = await spoken(daemon, script(*tokens(TEXT), on_close=lambda: closed.append(True)))
        assert (said, done.outcome, client_turn.stop_reason) == (TEXT, Outcome.DONE, None)
        assert turns(daemon, "done") == 1
        assert not daemon.daemon.turns
    assert closed == [True]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "llm2ws.turn"]
    fields = dict(part.split("=") for part in line.split()[1:])
    assert (fields["face"], fields["client"], fields["outcome"]) == ("test", "local", "done")
    assert int(fields["source_chars"]) == len(TEXT)
    assert list(client_turn.waterfall) == [
        *("first_token_s", "first_fragment_s", "connected_s", "first_speak_s", "first_flush_s", "first_audio_s"),
        *("last_token_s", "done_s", "audio_s"),
    ]


async def test_an_answer_as_long_as_allowed_is_spoken_whole(start: Start) -> None:
    limits = ClientLimits(text_chars=len(TEXT))
    async with start(server=Server(limits=limits)) as daemon:
        client_turn, said, _ = await spoken(daemon, script(*tokens(TEXT)))
        assert (said, client_turn.stop_reason) == (TEXT, None)
        client_turn, said, _ = await spoken(daemon, script(*tokens(TEXT), " More."))
        assert (said, client_turn.stop_reason) == (TEXT, StopReason.TEXT)
        assert turns(daemon, "text limit") == 1


async def test_the_source_is_closed_at_the_limit_of_speech(start: Start) -> None:
    closed = asyncio.Event()
    speech = FaultySpeech(coding=CODING)
    async with start(server=Server(limits=ClientLimits(turn_speech_s=0.1)), speech=speech) as daemon:
        client_turn, said, done = await spoken(daemon, script(TEXT, math.inf, on_close=closed.set))
        assert client_turn.stop_reason is StopReason.SPEECH
        assert done.outcome is Outcome.INTERRUPTED
        assert TEXT.startswith(said.rsplit(" ", 1)[0])
        assert closed.is_set()
        assert value(daemon.daemon.metrics, "llm2ws_chars_wasted_total") > 0


async def test_no_speech_left_is_said_before_anything_is_asked(start: Start) -> None:
    async with start(server=Server(limits=ClientLimits(hour_speech_s=0.01))) as daemon:
        await spoken(daemon, script(TEXT))
        with pytest.raises(Problem, match="used up"):
            await spoken(daemon, script(TEXT))


async def test_at_the_deadline_it_ends_and_is_counted(start: Start) -> None:
    async with start() as daemon:
        request: Any = Request(daemon)
        conversation = daemon.daemon.service.conversation()
        async with speak_to_client(request, conversation, script("One sentence. Two", math.inf), face="test") as client_turn:
            for stop in list(daemon.daemon.turns):
                await stop()
            events = [event async for event in client_turn.events()]
        assert isinstance(events[-1], Done)
        assert client_turn.stop_reason is StopReason.SHUTDOWN
        assert turns(daemon, "shutdown") == 1


async def test_a_source_that_fails_is_counted_once(start: Start) -> None:
    async with start() as daemon:
        with pytest.raises(SourceError):
            await spoken(daemon, script("One sentence.", SourceError("it failed")))
        assert turns(daemon, "cut short") == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SourceError("no", status=400), "refused"),
        (SourceError("too long", status=413), "refused"),
        (SourceError("no such model", status=404), "cut short"),  # The settings name it.
        (SourceError("wrong key", status=401), "cut short"),
        (SourceError("too many", status=429), "cut short"),
        (SourceError("away", retry=True), "cut short"),
    ],
)
async def test_a_clients_mistake_at_the_llm_is_an_outcome_of_its_own(start: Start, error: SourceError, outcome: str) -> None:
    async with start() as daemon:
        with pytest.raises(SourceError):
            await spoken(daemon, script("One.", error))
        assert turns(daemon, outcome) == 1


@pytest.mark.parametrize(("status", "outcome"), [(400, "refused"), (401, "lost"), (503, "lost")])
async def test_a_voice_that_the_endpoint_refuses_is_the_clients_mistake(start: Start, status: int, outcome: str) -> None:
    def soon(settings: Settings) -> Settings:
        return replace(settings, speech={"faulty": replace(settings.speech["faulty"], connect_s=0.5)})

    async with start(change=soon) as daemon:
        daemon.speech.refusals.extend([status] * 1_000)
        conversation = daemon.daemon.service.conversation(voice="aura-2-nobody-en")
        request: Any = Request(daemon)
        with pytest.raises(ConnectFailed):
            async with speak_to_client(request, conversation, script("One."), face="test") as client_turn:
                async for _ in client_turn.events():
                    pass
        assert turns(daemon, outcome) == 1
        daemon.speech.refusals.clear()


async def test_leaving_is_an_interruption(start: Start) -> None:
    closed = asyncio.Event()
    async with start() as daemon:
        request: Any = Request(daemon)
        conversation = daemon.daemon.service.conversation()
        source = script("One sentence is here. Two", math.inf, on_close=closed.set)
        async with (
            speak_to_client(request, conversation, source, face="test") as client_turn,
            aclosing(client_turn.events()) as events,
        ):
            async for event in events:
                if isinstance(event, Audio):
                    break
        assert turns(daemon, "interrupted") == 1
        await closed.wait()


async def test_many_short_turns_do_not_wait_for_the_limits_of_one_connection(start: Start) -> None:
    # Twenty Flushes a minute are soon used up by short turns; whoever comes next gets another connection.
    async with start() as daemon:
        async with asyncio.timeout(20):
            for _ in range(30):
                _, said, _ = await spoken(daemon, script(TEXT))
                assert said == TEXT
        assert 2 <= daemon.speech.connections <= 8
        assert daemon.speech.closed_with == []
