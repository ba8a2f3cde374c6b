"""Who gets which connection, when one is opened, and when none is."""

from __future__ import annotations

import asyncio
import math

import pytest

from llm2ws.errors import ConnectFailed, LocalProtocolError
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import CloseIn
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.messages import Event, Failed
from llm2ws.testing import Faults, FaultySpeech
from scripts.virtual_clock import run
from tests.links.leasing import CODING, FORMAT, ended, endpoint, ignore, speak


async def test_turns_one_after_another_share_a_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where = endpoint(speech)
        await pool.warm(where)
        await pool.warm(where)
        slots = [await speak(pool, where) for _ in range(3)]
        assert len({slot.connection for slot in slots}) == 1
        assert (pool.opened, speech.connections, pool.connections("test")) == (1, 1, 1)
    assert speech.count(CloseIn) == 1


async def test_a_connection_that_is_opened_ahead_is_for_the_turn_that_comes_first() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        speech.faults = Faults(handshake_s=0.05)
        where = endpoint(speech)
        warming = [asyncio.create_task(pool.warm(where)) for _ in range(2)]
        await speech.until(lambda s: s.handshakes == 1)
        slot, _ = await pool.lease([where], ignore)
        await asyncio.gather(*warming)
        assert (pool.opened, speech.handshakes) == (1, 1)
        await pool.warm(where)  # the next one finds none
        assert pool.opened == 2
        slot.end()


async def test_turns_at_once_each_have_their_own_and_a_conversation_gets_its_own_again() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where = endpoint(speech)
        slots = [(await pool.lease([where], ignore))[0] for _ in range(3)]
        assert len({slot.connection for slot in slots}) == 3
        for slot in slots:
            slot.end()
        for slot in slots:
            again, _ = await pool.lease([where], ignore, last=slot.connection)
            assert again.connection is slot.connection
            again.end()
        assert speech.connections == 3


async def test_other_voices_have_other_connections() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        one, other = [await speak(pool, endpoint(speech, voice=voice)) for voice in ("aura-a", "aura-b")]
        assert one.connection is not other.connection
        assert pool.connections("test") == 2


async def test_a_place_that_is_being_cleared_is_waited_for() -> None:
    async with FaultySpeech(coding=CODING, pace=1.0) as speech, Pool() as pool:
        speech.faults = Faults(cleared_s=0.05)
        where = endpoint(speech)
        slot, _ = await pool.lease([where], ignore)
        slot.speak("a long text that goes on and on ")
        slot.flush()
        await speech.until(lambda s: s.frames > 0)
        slot.cancel()
        again, _ = await pool.lease([where], ignore)
        assert again.connection is slot.connection
        again.end()


# --- opening


@pytest.mark.parametrize("status", [429, 503])
async def test_a_passing_refusal_is_tried_again(status: int) -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool(connect_s=5.0) as pool:
        speech.refusals.extend([status])
        await speak(pool, endpoint(speech))
        assert (speech.handshakes, speech.connections) == (2, 1)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 200])
async def test_a_final_refusal_is_not(status: int) -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        speech.refusals.append(status)
        with pytest.raises(ConnectFailed) as caught:
            await pool.lease([endpoint(speech)], ignore)
        assert (caught.value.status, speech.handshakes, pool.connections("test")) == (status, 1, 0)
        await speak(pool, endpoint(speech))  # what was refused once may be granted later


async def test_tries_end_in_time_with_the_last_reason() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool(connect_s=0.5) as pool:
        speech.refusals.extend([503] * 10)
        with pytest.raises(ConnectFailed, match="503"):
            await pool.lease([endpoint(speech)], ignore)
        assert speech.handshakes == 1  # the next try would have been too late


@pytest.mark.parametrize("closing", [False, True])
async def test_a_pool_that_is_left_during_a_handshake_keeps_nothing_open(closing: bool) -> None:
    async with FaultySpeech(coding=CODING) as speech, FaultySpeech(coding=CODING) as slow:
        slow.faults = Faults(handshake_s=0.05)
        async with Pool() as pool:
            if closing:  # an endpoint that takes its time keeps the pool from being left before the handshake is over
                speech.faults = Faults(flushed_s=0.2)
                slot, _ = await pool.lease([endpoint(speech)], ignore)
                slot.speak("Hello. ")
                slot.flush()
            warm = asyncio.create_task(pool.warm(endpoint(slow, name="slow")))
            await slow.until(lambda s: s.handshakes == 1)
        with pytest.raises(LocalProtocolError, match="not open"):
            await warm
        assert (pool.connections("slow"), pool.opened) == (0, int(closing))
        await slow.until(lambda s: s.open == 0)


async def test_a_lease_that_is_cancelled_leaves_nothing() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        speech.faults = Faults(handshake_s=math.inf)
        task = asyncio.create_task(pool.lease([endpoint(speech)], ignore))
        await speech.until(lambda s: s.handshakes == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.connections("test") == 0
        speech.faults = Faults()
        await speak(pool, endpoint(speech))


class Confused(Deepgram):
    """A dialect with a mistake: some messages are beyond it."""

    def decode(self, message: str | bytes) -> list[Event]:
        if isinstance(message, str) and "confusing" in message:
            raise ValueError("secret words")
        return super().decode(message)


async def test_a_message_that_breaks_the_reader_ends_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async with FaultySpeech(coding=CODING) as speech, FaultySpeech(coding=CODING) as bad, Pool() as pool:
        bad.faults = Faults(noise=("confusing",))
        slot, _ = await pool.lease([endpoint(speech)], ignore)
        told: asyncio.Queue[Event] = asyncio.Queue()
        lost, _ = await pool.lease([Endpoint(Confused(Setup(bad.url, "", FORMAT)), "confused")], told.put_nowait)
        lost.speak("Hello. ")
        lost.end()
        while not isinstance(event := await told.get(), Failed):
            pass
        assert event.what == "the connection was given up"
        await bad.until(lambda s: s.open == 0)
        assert pool.connections("confused") == 0
        assert (await speak(pool, endpoint(speech))).connection is not slot.connection
        slot.end()
    (logged,) = (
        record.getMessage() for record in caplog.records if record.name == "llm2ws.pool" and record.levelname == "ERROR"
    )
    assert "a connection to confused was given up: ValueError" in logged
    assert "secret" not in logged


# --- the limit on connections


async def test_a_limit_on_connections_makes_turns_wait_for_each_other() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where = endpoint(speech, connections=2)
        slots = [(await pool.lease([where], ignore))[0] for _ in range(2)]
        waiting = asyncio.create_task(pool.lease([where], ignore))
        await asyncio.sleep(0)
        slots[0].end()
        got, _ = await waiting
        assert got.connection is slots[0].connection
        assert speech.connections == 2


@pytest.mark.parametrize(("replicas", "connections", "share"), [(3, 5, 1), (2, 5, 2), (5, 5, 1), (9, 5, 1), (3, None, 12)])
async def test_replicas_together_have_no_more_connections_than_one_would(
    replicas: int, connections: int | None, share: int
) -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool(replicas=replicas) as pool:
        where = endpoint(speech, connections=connections)
        async with asyncio.TaskGroup() as tasks:
            turns = [tasks.create_task(pool.lease([where], ignore)) for _ in range(12)]
            for turn in asyncio.as_completed(turns):
                (await turn)[0].end()
                assert pool.connections("test") <= share
        assert speech.connections <= share


async def test_an_idle_connection_makes_room_for_another_voice() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        first = await speak(pool, endpoint(speech, voice="aura-a", connections=1))
        second = await speak(pool, endpoint(speech, voice="aura-b", connections=1))
        assert first.connection is not second.connection
        assert first.connection.ended is not None
        assert pool.connections("test") == 1


def test_voices_that_nobody_asks_for_any_more_keep_no_connections() -> None:
    async def main() -> None:
        async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
            usual = await speak(pool, endpoint(speech))
            for minute in range(60):
                await speak(pool, endpoint(speech, voice=f"aura-{minute}"))
                assert pool.connections("test") <= 13
                if minute % 9 == 0:
                    assert (await speak(pool, endpoint(speech))).connection is usual.connection
                await asyncio.sleep(60.0)

    run(main())


async def test_a_hundred_turns_at_once_share_a_few_connections() -> None:
    async with FaultySpeech(coding=CODING, limits=Enforced()) as speech, Pool() as pool:
        where = endpoint(speech, connections=4)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(100):
                tasks.create_task(speak(pool, where))
        assert speech.connections <= 4
        assert len(speech.texts()) == 100


async def test_a_connection_near_the_end_of_its_life_takes_no_new_turn() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool(jitter=lambda: 0.0) as pool:
        where = endpoint(speech, limits=Limits(life_s=0.05))
        first = await speak(pool, where)
        await asyncio.sleep(0.05)
        second = await speak(pool, where)
        assert first.connection is not second.connection
        await speech.until(lambda s: s.count(CloseIn) >= 1)


# --- several endpoints


async def test_the_first_endpoint_that_can_be_had_is_taken() -> None:
    async with FaultySpeech(coding=CODING) as broken, FaultySpeech(coding=CODING) as speech, Pool() as pool:
        broken.refusals.append(401)
        order = [endpoint(broken, name="broken"), endpoint(speech)]
        slot, where = await pool.lease(order, ignore)
        assert where is order[1]
        slot.end()


def test_turns_that_begin_at_once_do_not_wait_for_each_others_tries() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with FaultySpeech(coding=CODING) as silent, FaultySpeech(coding=CODING) as speech, Pool(connect_s=5.0) as pool:
            silent.faults = Faults(handshake_s=math.inf)
            order = [endpoint(silent, name="silent"), endpoint(speech)]
            leased = await asyncio.gather(*(pool.lease(order, ignore) for _ in range(8)))
            assert [where for _, where in leased] == [order[1]] * 8
            assert 5.0 <= loop.time() < 6.0
            with pytest.raises(ConnectFailed):  # who comes later tries for themselves
                await pool.lease(order[:1], ignore)
            assert silent.handshakes == 9
            for slot, _ in leased:
                slot.end()

    run(main())


async def test_one_more_that_is_refused_is_asked_for_once() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where = endpoint(speech, limits=Limits(chars_per_window=7))
        slots = [(await pool.lease([where], ignore))[0] for _ in range(6)]
        for slot in slots:
            slot.speak("Hello. ")
        await asyncio.gather(*(ended(slot) for slot in slots))
        speech.refusals.extend([429] * 6)
        again = await asyncio.gather(*(pool.lease([where], ignore) for _ in range(6)))
        assert {slot.connection for slot, _ in again} == {slot.connection for slot in slots}
        await asyncio.gather(*(ended(slot) for slot, _ in again))
        await asyncio.gather(*(pool.lease([where], ignore) for _ in range(6)))
        assert speech.handshakes == 12


async def test_when_none_can_be_had_the_last_reason_is_told() -> None:
    async with FaultySpeech(coding=CODING) as one, FaultySpeech(coding=CODING) as other, Pool() as pool:
        one.refusals.append(401)
        other.refusals.append(402)
        with pytest.raises(ConnectFailed, match="402"):
            await pool.lease([endpoint(one, name="one"), endpoint(other, name="other")], ignore)
