"""Several turns on one connection: who gets which place, what they share, and what one does to the others."""

from __future__ import annotations

import asyncio
import math

import pytest

from llm2ws.errors import ConnectFailed
from llm2ws.links.breaker import FAILURES
from llm2ws.links.connection import ConnectionSlot
from llm2ws.links.pool import UNUSED_S, Endpoint, Pool
from llm2ws.speech import messages
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.cartesia import Cartesia
from llm2ws.speech.dialects.elevenlabs import ElevenLabs
from llm2ws.speech.messages import Ended, Event, Failed, Scope
from llm2ws.testing import Coding, Drop, Faults, decode, script
from llm2ws.turn import Audio, Conversation, Outcome, Turn
from scripts.virtual_clock import run
from tests.vendors.cartesia import CartesiaServer
from tests.vendors.elevenlabs import CONTEXTS, ElevenLabsServer
from tests.whole import FORMAT, audio_of, heard, listen, sentences

CODING = Coding(char_samples=480, lead_in_s=0.0)  # 60 ms a character
LONG = sentences(400)


def place(server: ElevenLabsServer | CartesiaServer, **options: object) -> Endpoint:
    dialect = ElevenLabs if isinstance(server, ElevenLabsServer) else Cartesia
    return Endpoint(dialect(Setup(server.url, "", FORMAT)), **{"name": "test", **options})  # type: ignore[arg-type]


def ignore(event: Event) -> None:
    """A listener that wants nothing."""


async def lease(pool: Pool, where: Endpoint, last: ConnectionSlot | None = None) -> ConnectionSlot:
    return (await pool.lease([where], ignore, last=last.place if last else None))[0]


class Ear:
    """A listener that keeps the audio, and knows when its turn is over."""

    def __init__(self) -> None:
        self.audio = bytearray()
        self.over: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def __call__(self, event: Event) -> None:
        if isinstance(event, messages.AudioChunk):
            self.audio += event.data
        elif isinstance(event, Ended | Failed):
            self.over.set_result(event)


async def say(pool: Pool, where: Endpoint, ear: Ear, text: str) -> ConnectionSlot:
    slot, _ = await pool.lease([where], ear)
    slot.speak(text)
    slot.end()
    return slot


async def begun(server: ElevenLabsServer | CartesiaServer, turn: Turn) -> None:
    """Until the first audio of a turn has been handed out."""
    async for event in turn.events():
        if isinstance(event, Audio):
            return
    raise AssertionError("no audio came")


def test_a_connection_is_filled_before_another_is_opened_and_places_are_used_again() -> None:
    async def speak() -> None:
        async with ElevenLabsServer(coding=CODING) as server, Pool() as pool:
            where = place(server)
            slots = await asyncio.gather(*(lease(pool, where) for _ in range(2 * CONTEXTS + 1)))
            per_connection = [sum(slot.connection is c for slot in slots) for c in {slot.connection for slot in slots}]
            assert sorted(per_connection) == [1, CONTEXTS, CONTEXTS]
            first = slots[0]
            first.end()
            again = await lease(pool, where, last=first)
            assert again.connection is first.connection
            assert server.connections == 3

    run(speak())


def test_many_conversations_over_one_connection_at_a_time_are_all_heard() -> None:
    """More than it has places: those that come late wait for one."""

    async def speak() -> None:
        async with ElevenLabsServer(coding=CODING, pace=4.0) as server, Pool(wait_s=60.0) as pool:
            where = place(server, connections=1)
            texts = [f"This is conversation {n}. It has {n} words." for n in range(4 * CONTEXTS)]
            said = await asyncio.gather(*(heard(Conversation(pool, [where]).turn(script(text))) for text in texts))
            assert said == texts
            assert (server.connections, server.contexts_most) == (1, CONTEXTS)
            assert [how for how in server.closed_with if how.code != 1000] == []

    run(speak())


@pytest.mark.parametrize("server_class", [ElevenLabsServer, CartesiaServer])
def test_an_interrupted_turn_changes_nothing_for_those_beside_it(server_class: type[ElevenLabsServer | CartesiaServer]) -> None:
    async def speak() -> None:
        async with server_class(coding=CODING, pace=2.0) as server, Pool() as pool:
            server.faults = Faults(audio_after_clear_s=1.0)
            where = place(server)
            other = asyncio.create_task(listen(turn := Conversation(pool, [where]).turn(script(LONG))))
            for _ in range(3):
                async with Conversation(pool, [where]).turn(script("Stopped early. ", math.inf)) as stopped:
                    await begun(server, stopped)
                assert stopped.outcome is Outcome.INTERRUPTED
            assert decode(audio_of(await other)) == LONG
            assert (turn.stats.resumed, server.connections) == (0, 1)

    run(speak())


def test_a_context_that_fails_is_said_again_and_the_others_go_on() -> None:
    async def speak() -> None:
        async with CartesiaServer(coding=CODING, pace=2.0) as server, Pool() as pool:
            where = place(server)
            other = Conversation(pool, [where]).turn(script(LONG))
            async with other:
                await begun(server, other)
                server.failures = 2
                failing = Conversation(pool, [where]).turn(script("This is said at the third try."))
                assert await heard(failing) == "This is said at the third try."
                assert failing.stats.resumed == 2
                rest = [event async for event in other.events()]
                assert other.outcome is Outcome.DONE
                assert rest
            assert (other.stats.resumed, server.connections) == (0, 1)

    run(speak())


def test_an_endpoint_whose_contexts_keep_failing_is_left_alone() -> None:
    async def speak() -> None:
        async with CartesiaServer(coding=CODING) as server, ElevenLabsServer(coding=CODING) as stand_in, Pool() as pool:
            server.failures = 1_000
            where = [place(server, name="one"), place(stand_in, name="two")]
            assert await heard(Conversation(pool, where).turn(script("Hello there. "))) == "Hello there."
            asked = len(server.log)
            assert len({entry.message["context_id"] for entry in server.log}) == FAILURES
            assert await heard(Conversation(pool, where).turn(script("And again. "))) == "And again."
            assert len(server.log) == asked

    run(speak())


def test_a_context_that_stays_silent_fails_alone() -> None:
    """The others' audio is no sign of life for it."""

    async def speak() -> None:
        async with CartesiaServer(coding=CODING, pace=1.0) as server, Pool() as pool:
            where = place(server, silence_s=3.0)
            talking, silent = Ear(), Ear()
            await say(pool, where, talking, LONG)
            await server.until(lambda s: s.frames > 2)
            server.faults = Faults(first_byte_s=math.inf)  # for those who come now
            slot = await say(pool, where, silent, "Hello. ")
            failed = await silent.over
            assert isinstance(failed, Failed)
            assert (failed.scope, failed.ref) == (Scope.CONTEXT, slot.ref)
            assert "has sent nothing for 3 s" in failed.what
            assert slot.connection.spent  # its place may be lost: it takes no more turns
            assert not talking.over.done()
            assert isinstance(await talking.over, Ended)
            assert decode(bytes(talking.audio)) == LONG
            assert server.connections == 1

    run(speak())


def test_how_many_turns_an_account_has_at_once_is_kept_over_all_connections_and_voices() -> None:
    async def speak() -> None:
        async with CartesiaServer(coding=CODING, pace=4.0) as server, Pool(wait_s=60.0) as pool:
            voices = [Endpoint(Cartesia(Setup(server.url, voice, FORMAT)), "test", turns=3) for voice in ("voice-a", "voice-b")]
            most = now = 0

            async def one(n: int) -> str:
                nonlocal most, now
                text = f"This is turn {n}."
                turn = Conversation(pool, [voices[n % 2]]).turn(script(text))
                async with turn:
                    audio = bytearray()
                    async for data in turn.audio():
                        if not audio:
                            now += 1
                            most = max(most, now)
                        audio += data
                    now -= 1
                assert decode(bytes(audio)) == text
                return text

            await asyncio.gather(*(one(n) for n in range(12)))
            assert most == 3

    run(speak())


async def test_a_turn_that_finds_none_left_says_what_is_used_up() -> None:
    async with CartesiaServer(coding=CODING) as server, Pool(wait_s=0.05, replicas=2) as pool:
        where = place(server, turns=5)  # of which two are for each replica
        slots = [await lease(pool, where) for _ in range(2)]
        with pytest.raises(ConnectFailed, match=r"all turns to test are in use \(2\)"):
            await lease(pool, where)
        slots[0].end()
        await lease(pool, where)  # its place was given back
        slots[1].cancel()
        await lease(pool, where)


async def test_a_lost_connection_gives_all_its_turns_back() -> None:
    async with CartesiaServer(coding=CODING) as server, Pool(wait_s=0.05) as pool:
        where = place(server, turns=2)
        told: asyncio.Queue[Event] = asyncio.Queue()
        await pool.lease([where], told.put_nowait)
        slot, _ = await pool.lease([where], told.put_nowait)
        server.drops.append(Drop(after_chars=0))
        slot.speak("Boom. ")
        for _ in range(2):
            assert isinstance(await told.get(), Failed)
        for _ in range(2):
            await lease(pool, where)


def test_an_old_connection_is_left_to_its_turns_and_closed_when_they_are_done() -> None:
    async def speak() -> None:
        async with ElevenLabsServer(coding=CODING, pace=1.0) as server, Pool(jitter=lambda: 0.0) as pool:
            where = place(server, limits=Limits(life_s=10.0))
            first = asyncio.create_task(heard(Conversation(pool, [where]).turn(script(LONG))))
            second = asyncio.create_task(heard(Conversation(pool, [where]).turn(script(LONG))))
            await asyncio.sleep(9.5)
            assert server.connections == 1
            third = await heard(Conversation(pool, [where]).turn(script("On a young one. ")))
            assert third == "On a young one."
            assert server.connections == 2
            assert [await first, await second] == [LONG, LONG]
            await server.until(lambda s: s.open == 1)

    run(speak())


def test_a_connection_with_turns_is_never_one_that_nobody_needs() -> None:
    async def speak() -> None:
        async with ElevenLabsServer(coding=CODING) as server, Pool() as pool:
            where = place(server)
            slots = [await lease(pool, where) for _ in range(CONTEXTS + 1)]
            for slot in slots[1:]:
                slot.end()
            await asyncio.sleep(2 * UNUSED_S)
            ear = slots[0].listener = Ear()
            slots[0].speak("Still there. ")
            slots[0].end()
            (await lease(pool, where)).end()  # looks for what is to be closed
            assert isinstance(await ear.over, Ended)
            assert decode(bytes(ear.audio)) == "Still there."

    run(speak())
