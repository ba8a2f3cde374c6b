"""The connections of one account: many at once, refused ones, idle ones, and who gets them."""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus

import pytest
from websockets.http11 import Request

from llm2ws.errors import ConnectFailed
from llm2ws.links.account import backoff
from llm2ws.links.endpoint import Endpoint
from llm2ws.links.pool import FORGET_EACH_S, FORGET_S, IDLE_IN_ACCOUNT, UNUSED_S, Pool
from llm2ws.speech.dialect import Setup, Traits
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.testing import Coding, Faults, FaultyNetwork, FaultySpeech, decode, script
from llm2ws.testing.endpoint import Answer
from llm2ws.turn import Audio, Conversation, Outcome
from scripts.virtual_clock import run
from tests.links.leasing import CODING, ended, endpoint, ignore, speak
from tests.whole import FORMAT, sentences

MANY, HANDSHAKE_S = 50, 0.3
SPOKEN = Coding(char_samples=480, lead_in_s=0.0)  # 60 ms a character


class Planned(FaultySpeech):
    """An endpoint whose account has a plan: another connection than these is refused with HTTP 429."""

    plan = 5

    def admit(self, request: Request) -> Answer | None:
        return self.refusal(HTTPStatus.TOO_MANY_REQUESTS) if self.open >= self.plan else super().admit(request)


def test_conversations_that_begin_at_once_do_not_wait_for_each_others_handshakes() -> None:
    async def main() -> None:
        loop, first_s = asyncio.get_running_loop(), list[float]()
        async with FaultySpeech(coding=SPOKEN, pace=1.0) as speech, Pool() as pool:
            speech.faults = Faults(handshake_s=HANDSHAKE_S)
            start = loop.time()

            async def converse() -> None:
                async with Conversation(pool, [endpoint(speech)]).turn(script(sentences(200))) as turn:
                    async for event in turn.events():
                        if isinstance(event, Audio):
                            first_s.append(loop.time() - start)
                            break

            await asyncio.gather(*(converse() for _ in range(MANY)))
            assert speech.connections == MANY
        assert len(first_s) == MANY
        assert max(first_s) - min(first_s) <= 0.15
        assert max(first_s) <= 2 * HANDSHAKE_S

    run(main())


async def longest_silence_s(n: int) -> float:
    """The longest that one of `n` conversations has nothing to play, while all their sockets are reset three times in 10 s."""
    text = sentences(400)
    async with FaultySpeech(coding=SPOKEN, pace=3.0) as speech, FaultyNetwork(speech.port) as network, Pool() as pool:
        where = Endpoint(Deepgram(Setup(f"ws://127.0.0.1:{network.port}", "", FORMAT)), "test")
        silences = list[float]()

        async def converse() -> None:
            played_to, audio = 0.0, bytearray()
            async with Conversation(pool, [where]).turn(script(text)) as turn:
                async for event in turn.events():
                    if isinstance(event, Audio):
                        now = asyncio.get_running_loop().time()
                        silences.append(max(0.0, now - played_to) if audio else 0.0)
                        played_to = max(played_to, now) + FORMAT.seconds(len(event.data))
                        audio += event.data
            assert turn.outcome is Outcome.DONE
            said = iter(decode(bytes(audio)).split())
            assert all(word in said for word in text.split())  # in this order; some may be said twice

        async def break_off() -> None:
            await speech.until(lambda s: s.open == n)
            speech.faults = Faults(handshake_s=HANDSHAKE_S)
            for _ in range(3):
                await asyncio.sleep(3.0)
                network.reset()

        await asyncio.gather(break_off(), *(converse() for _ in range(n)))
        return max(silences)


def test_conversations_whose_connections_break_at_once_do_not_wait_for_each_other() -> None:
    alone = run(longest_silence_s(1))
    assert run(longest_silence_s(10)) <= alone + 0.5


async def test_an_idle_connection_makes_room_when_the_endpoint_itself_refuses_one_more() -> None:
    async with Planned(coding=CODING) as speech, Pool() as pool:
        for n in range(12):
            await speak(pool, endpoint(speech, voice=f"aura-{n}"))
        assert len(speech.texts()) == 12


def test_turns_wait_in_order_where_the_endpoint_grants_fewer_connections_than_they_want() -> None:
    async def main() -> None:
        async with Planned(coding=SPOKEN, pace=10.0) as speech, Pool() as pool:
            begun = list[int]()

            async def one(n: int) -> None:
                slot, _ = await pool.lease([endpoint(speech)], ignore)
                begun.append(n)
                slot.speak("This is a sentence. ")
                await ended(slot)

            await asyncio.gather(*(one(n) for n in range(30)))
            assert begun == sorted(begun)
            refused = speech.handshakes - speech.connections
            assert speech.connections == speech.plan
            assert refused <= 25  # All began at once; since the first refusals, nothing was asked for.

    run(main())


def test_a_plan_that_grew_is_noticed() -> None:
    async def main() -> None:
        async with Planned(coding=CODING) as speech, Pool() as pool:
            slots = [(await pool.lease([endpoint(speech)], ignore))[0] for _ in range(speech.plan)]
            with pytest.raises(ConnectFailed, match="in use") as caught:
                await pool.lease([endpoint(speech)], ignore)
            assert caught.value.status == HTTPStatus.TOO_MANY_REQUESTS
            speech.plan += 1
            await asyncio.sleep(25.0)
            slots.append((await pool.lease([endpoint(speech)], ignore))[0])
            assert len({slot.connection for slot in slots}) == speech.plan

    run(main())


async def test_handshakes_that_overlap_and_fail_are_one_try() -> None:
    async with FaultySpeech(coding=CODING) as broken, FaultySpeech(coding=CODING) as speech, Pool() as pool:
        broken.faults = Faults(handshake_s=0.05)
        broken.refusals.extend([503] * 8)
        order = [endpoint(broken, name="broken"), endpoint(speech)]
        leased = await asyncio.gather(*(pool.lease(order, ignore) for _ in range(8)))
        assert {where for _, where in leased} == {order[1]}
        _, where = await pool.lease(order, ignore)
        assert where is order[0]  # One failure is no reason to leave the endpoint alone.


async def test_clients_take_turns_at_places() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where, served = endpoint(speech, connections=1), list[str]()
        slot, _ = await pool.lease([where], ignore)

        async def one(client: str) -> None:
            slot, _ = await pool.lease([where], ignore, client=client)
            served.append(client)
            await ended(slot)

        tasks = [asyncio.create_task(one(client)) for client in ("greedy", "greedy", "greedy", "modest")]
        await asyncio.sleep(0)
        slot.end()
        await asyncio.gather(*tasks)
        assert served == ["greedy", "modest", "greedy", "greedy"]


def test_idle_connections_are_closed_while_nobody_comes() -> None:
    async def main() -> None:
        async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
            for slot in [(await pool.lease([endpoint(speech)], ignore))[0] for _ in range(10)]:
                await ended(slot)
            for n in range(5):
                await speak(pool, endpoint(speech, voice=f"aura-{n}"))
            assert speech.open == 15
            await asyncio.sleep(UNUSED_S + FORGET_EACH_S + 1)
            assert speech.open == 6  # the newest of each voice
            await asyncio.sleep(FORGET_S)
            assert speech.open == 0

    run(main())


async def test_only_so_many_voices_keep_idle_connections() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        for n in range(3 * IDLE_IN_ACCOUNT):
            await speak(pool, endpoint(speech, voice=f"aura-{n}"))
        await speech.until(lambda s: s.open <= IDLE_IN_ACCOUNT)
        assert pool.connections("test") <= IDLE_IN_ACCOUNT + 1  # the last one may still be closing


def test_nobody_waits_for_an_endpoint_that_has_no_message_for_cancel() -> None:
    class Uncancelled(Deepgram):
        traits = Traits(cancels=False)

    async def main() -> None:
        async with FaultySpeech(coding=SPOKEN, pace=1.0) as speech, Pool() as pool:
            where = Endpoint(Uncancelled(Setup(speech.url, "", FORMAT)), "test", connections=1)
            slot, _ = await pool.lease([where], ignore)
            slot.speak("A long text that goes on and on. ")
            slot.flush()
            await speech.until(lambda s: s.frames > 0)
            at = asyncio.get_running_loop().time()
            slot.cancel()
            await pool.lease([where], ignore)
            assert asyncio.get_running_loop().time() - at < 0.1

    run(main())


async def test_a_turn_that_is_cancelled_while_others_wait_takes_nothing_with_it() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where = endpoint(speech, connections=1)
        slot, _ = await pool.lease([where], ignore)
        tasks = [asyncio.create_task(pool.lease([where], ignore)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        slot.end()
        (got, _), *_ = await asyncio.gather(tasks[1])
        got.end()
        (await tasks[2])[0].end()
        assert (speech.connections, math.isnan(pool.ping_s("test"))) == (1, True)


def test_backoff_doubles_up_to_its_end() -> None:
    delays = backoff()
    assert [next(delays) for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
