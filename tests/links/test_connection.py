"""One connection over real sockets: turns, closes, silence, nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

from llm2ws.errors import LocalProtocolError
from llm2ws.links import connection as module
from llm2ws.links.connection import Connection
from llm2ws.links.opening import OPENERS
from llm2ws.speech.dialect import Dialect, Setup
from llm2ws.speech.dialects.cartesia import Cartesia
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import CloseIn, FlushIn
from llm2ws.speech.messages import AudioChunk, Cancelled, Ended, Event, Failed, FlushAcked
from llm2ws.testing import Coding, Drop, Faults, FaultyNetwork, FaultySpeech, How
from llm2ws.testing.endpoint import FaultyEndpoint
from tests.links.memory import MemoryLink
from tests.links.opened import FORMAT, Events, opened
from tests.vendors.cartesia import CartesiaServer

Wire = Callable[[FaultyEndpoint[Any]], str]

CODING = Coding(char_samples=8, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)


def dialect(url: str, key: str = "") -> Deepgram:
    return Deepgram(Setup(url, "", FORMAT, key))


@pytest.fixture(params=["websocket", "memory"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Have a connection reach an endpoint over one kind of link or the other. Gives what makes a URL of an endpoint."""
    served = set[asyncio.Task[None]]()

    def url(speech: FaultyEndpoint[Any]) -> str:
        async def open_memory(dialect: Dialect, **_: object) -> MemoryLink:
            link = MemoryLink(dialect.request().url)
            served.add(task := asyncio.create_task(speech._handle(link.peer)))  # type: ignore[arg-type]
            task.add_done_callback(lambda _: link.abort())
            return link

        if request.param == "memory":
            monkeypatch.setitem(OPENERS, "ws", open_memory)
        return speech.url

    return url


async def test_a_turn_from_lease_to_end(wire: Wire) -> None:
    async with FaultySpeech(coding=CODING) as speech, opened(wire(speech)) as connection:
        events = Events()
        slot = connection.lease(events)
        assert connection.places == 0
        with pytest.raises(LocalProtocolError, match="no place"):
            connection.lease(events)
        slot.speak("Hello ")
        slot.flush()
        slot.speak("world. ")
        slot.end()
        await events.until(Ended)
        assert events.text == "Hello world."
        assert [type(event) for event in events.all if not isinstance(event, AudioChunk)] == [FlushAcked, FlushAcked, Ended]
        assert (slot.live, connection.places, connection.audio_came) == (False, 1, True)
        slot.cancel()  # it is free: nothing happens
        assert speech.count(FlushIn) == 2


async def test_a_change_is_told_when_a_place_becomes_free_and_not_with_each_message(wire: Wire) -> None:
    async with CartesiaServer(coding=CODING) as speech, asyncio.TaskGroup() as tasks:
        events, changes = Events(), list[int]()
        spoken = Cartesia(Setup(wire(speech), "", FORMAT, "key"))
        connection = await Connection.open(spoken, on_change=lambda: changes.append(connection.places))
        tasks.create_task(connection.run())
        slot = connection.lease(events)
        assert connection.places == 9  # who waits for a turn of the account is not to be woken by what this one hears
        for _ in range(50):
            slot.speak("Hello. ")
        slot.end()
        await events.until(Ended)
        await connection.aclose()
    assert sum(isinstance(event, AudioChunk) for event in events.all) > 10
    assert changes == [10]


async def test_after_cancel_nothing_but_cancelled_comes(wire: Wire) -> None:
    async with FaultySpeech(coding=CODING, pace=1.0, max_frame_bytes=50) as speech, opened(wire(speech)) as connection:
        speech.faults = Faults(audio_after_clear_s=0.02, stale_flushed=True)
        events = Events()
        slot = connection.lease(events)
        slot.speak("a long text that goes on and on " * 5)
        slot.flush()
        await events.until(AudioChunk)
        slot.cancel(played_s=0.1)
        before = len(events.all)
        await events.until(Cancelled)
        assert len(events.all) == before + 1
        assert connection.places == 1
        speech.pace, again = None, Events()
        slot = connection.lease(again)
        slot.speak("Next. ")
        slot.end()
        await again.until(Ended)
        assert again.text == "Next."
        assert len(events.all) == before + 1


@pytest.mark.parametrize(
    ("how", "code", "reason", "what", "retry"),
    [
        (How.CLOSE, 1000, "", "closed the connection", True),
        (How.CLOSE, 1001, "", "going away", True),
        (How.CLOSE, 1003, "MESSAGE-0000", "this kind of message", False),
        (How.CLOSE, 1008, "DATA-0000", "did not understand", False),
        (How.CLOSE, 1008, "DATA-0001", "more characters in a minute", True),
        (How.CLOSE, 1009, "BIG-0001", "longer than", False),
        (How.CLOSE, 1011, "NET-0000", "internal error", True),
        (How.CLOSE, 1011, "NET-0003", "age", True),
        (How.RESET, 1006, "", "broke", True),
        (How.CUT, 1006, "", "broke", True),
    ],
)
async def test_how_a_connection_ended_is_told_to_its_turn_once(
    wire: Wire, how: How, code: int, reason: str, what: str, retry: bool
) -> None:
    async with FaultySpeech(coding=CODING) as speech, opened(wire(speech)) as connection:
        speech.drops.append(Drop(how, code=code, reason=reason, after_chars=1))
        events = Events()
        slot = connection.lease(events)
        slot.speak("Hello ")
        failed = await events.until(Failed)
        assert isinstance(failed, Failed)
        assert what in failed.what
        assert (failed.code, failed.reason, failed.retry_s is not None) == (code, reason, retry)
        assert (len(events.all), slot.live, connection.places) == (1, False, 0)
        assert connection.ended is not None
        assert not connection.ended.ours
        with pytest.raises(LocalProtocolError, match="over"):
            connection.lease(events)


async def test_a_network_that_cuts_within_a_frame_is_a_broken_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech, FaultyNetwork(speech.port) as network:
        async with opened(f"ws://127.0.0.1:{network.port}") as connection:
            events = Events()
            slot = connection.lease(events)
            slot.speak("Hello there, my friend. " * 5)
            network.cut_after = 500
            slot.flush()
            failed = await events.until(Failed)
            assert isinstance(failed, Failed)
            assert failed.code == 1006


async def test_silence_while_audio_is_owed_ends_the_connection(wire: Wire) -> None:
    async with FaultySpeech(coding=CODING) as speech:
        speech.faults = Faults(first_byte_s=math.inf)
        connection = await Connection.open(dialect(wire(speech)), silence_s=0.02)
        events = Events()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.run())
            slot = connection.lease(events)
            slot.speak("Hello ")
            slot.flush()
            failed = await events.until(Failed)
        assert isinstance(failed, Failed)
        assert "has sent nothing" in failed.what


async def test_a_key_is_in_no_log_even_where_the_library_is_asked_for_everything(
    wire: Wire, canary: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    key = canary()
    for name in ("", "websockets", "websockets.client", "asyncio", "llm2ws"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with FaultySpeech(coding=CODING, key=key) as speech, opened(wire(speech), key) as connection:
        events = Events()
        slot = connection.lease(events)
        slot.speak("A secret of the model. ")
        slot.end()
        await events.until(Ended)
        assert key not in repr(connection)
        assert key not in repr(slot)
    assert key not in caplog.text
    assert "secret of the model" not in caplog.text


# --- closing


async def test_closing_is_said_and_waited_for(wire: Wire) -> None:
    async with FaultySpeech(coding=CODING) as speech:
        async with opened(wire(speech)) as connection:
            await connection.aclose()
            assert connection.ended is not None
            assert connection.ended.ours
            await connection.aclose()  # again: nothing happens
        assert speech.count(CloseIn) == 1
        assert [how.code for how in speech.closed_with] == [1000]


async def test_an_endpoint_that_does_not_close_is_not_waited_for_long(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_S", 0.02)
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    async with FaultySpeech(coding=CODING) as speech:
        speech.faults = Faults(flushed_s=math.inf)
        async with opened(wire(speech)) as connection:
            slot = connection.lease(Events())
            slot.speak("Hello ")
            slot.flush()
            await speech.until(lambda s: s.count(FlushIn) == 1)
        assert connection.ended is not None


@pytest.mark.parametrize("stuffed", [False, True])
async def test_a_network_that_swallows_everything_does_not_hold_up_the_end(
    stuffed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when so much waits to be sent that the close frame finds no room."""
    monkeypatch.setattr(module, "DRAIN_S", 0.02)
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    held = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", speech.port)
        to.write(await reader.readuntil(b"\r\n\r\n"))
        writer.write(await there.readuntil(b"\r\n\r\n"))
        await held.wait()  # reads nothing more
        for end in (writer, to):
            end.transport.abort()

    async with FaultySpeech(coding=CODING) as speech:
        server = await asyncio.start_server(swallow, "127.0.0.1", 0, limit=1_000)
        async with server:
            async with opened(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as connection:
                slot = connection.lease(Events())
                for _ in range(40 if stuffed else 1):
                    slot.speak("x" * 500_000 if stuffed else "x")
                await asyncio.sleep(0)
            assert connection.ended is not None
            held.set()


async def test_a_listener_that_raises_ends_the_connection_and_is_heard_of(wire: Wire) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, AudioChunk):
            raise KeyError("a bug")

    async with FaultySpeech(coding=CODING) as speech:
        connection = await Connection.open(dialect(wire(speech)))
        slot = connection.lease(listener)
        slot.speak("Hello. ")
        slot.end()
        with pytest.raises(BaseExceptionGroup) as caught:
            await connection.run()
        assert caught.group_contains(KeyError)
        await connection.aclose()  # does not wait for what will not come
        await speech.until(lambda s: s.open == 0)


async def test_a_connection_that_is_given_up_ends_at_once(wire: Wire) -> None:
    async with FaultySpeech() as speech:
        connection = await Connection.open(dialect(wire(speech)))
        events = Events()
        connection.lease(events)
        task = asyncio.create_task(connection.run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(event) for event in events.all] == [Failed]
        await speech.until(lambda s: s.open == 0)
