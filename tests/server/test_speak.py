"""Deepgram's Speak WebSocket, served by the daemon: raw, and with Deepgram's own client."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import WSMsgType
from msgspec.structs import replace

from llm2ws.server import sending
from llm2ws.settings.fields import ClientLimits, Key, Secret, Server, Voice
from llm2ws.speech.dialects.deepgram_server import ClearIn, FlushIn, Refusal, SpeakIn, parse_query
from llm2ws.testing import Coding, Drop, Faults, FaultySpeech, How, decode, tokens
from tests.server.conftest import CODING, Running, Start
from tests.support import MS

ANSWER = "The sky is blue, because air scatters short waves. At sunset it is red! That is all, Dr. Smith: $3.50, please."


class Speak:
    """A client, message by message. `audio` is what came since the last message that was not audio."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.audio = b""

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.ws.send_json({"type": "Speak", "text": text})

    async def send(self, *kinds: str) -> None:
        for kind in kinds:
            await self.ws.send_json({"type": kind})

    async def next(self) -> dict[str, Any]:
        """The next message that is not audio; a close frame is {"close": code, "reason": reason}."""
        self.audio = b""
        while True:
            message = await self.ws.receive()
            if message.type is WSMsgType.BINARY:
                self.audio += message.data
                continue
            if message.type is WSMsgType.TEXT:
                return dict(json.loads(message.data))
            assert message.type is WSMsgType.CLOSE, message
            return {"close": message.data, "reason": message.extra}

    async def heard(self) -> str:
        """The text of the audio before the next Flushed."""
        answer = await self.next()
        assert answer["type"] == "Flushed", answer
        return decode(self.audio)

    async def until_audio(self) -> Self:
        message = await self.ws.receive()
        assert message.type is WSMsgType.BINARY, message
        return self


@asynccontextmanager
async def client(daemon: Running, query: str = "", **options: Any) -> AsyncIterator[Speak]:
    async with daemon.http.ws_connect(f"/v1/speak{query}", **options) as ws:
        speak = Speak(ws)
        metadata = await speak.next()
        assert metadata["type"] == "Metadata"
        yield speak


# --- turns ------------------------------------------------------------------------------------------------------------------


async def test_what_is_said_is_heard_and_own_flushes_do_not_show(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        await speak.say(*tokens(ANSWER))
        await speak.send("Flush")
        assert await speak.heard() == ANSWER
        assert daemon.speech.count(FlushIn) > 1  # for the first clause to be heard early
        await speak.say("Again.")
        await speak.send("Flush", "Close")
        assert await speak.heard() == "Again."
        assert await speak.next() == {"close": 1000, "reason": ""}
    assert "".join(daemon.speech.texts()).split() == f"{ANSWER} Again.".split()


async def test_markup_is_not_spoken(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        await speak.say("# Title\n", "This is **bo", "ld**. 🎉")
        await speak.send("Flush")
        assert await speak.heard() == "Title This is bold."


async def test_the_first_clause_is_spoken_while_the_client_still_sends(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        await speak.say("A whole sentence, with more to come. ", "And ")
        await speak.until_audio()


async def test_a_flush_is_answered_once_and_in_order(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        await speak.send("Flush")
        await speak.say("One. ")
        await speak.send("Flush", "Flush")
        await speak.say("***")  # nothing to say
        await speak.send("Flush")
        await speak.say("", "Two.")
        await speak.send("Flush")
        heard, numbers = [], []
        for _ in range(5):
            answer = await speak.next()
            numbers.append(answer["sequence_id"])
            heard.append(decode(speak.audio))
        assert heard == ["", "One.", "", "", "Two."]
        assert numbers == [0, 1, 2, 3, 4]


async def test_clear_interrupts_and_nothing_of_it_is_heard_later(start: Start) -> None:
    async with start(speech=FaultySpeech(coding=Coding(char_samples=2400), pace=1.0)) as daemon, client(daemon) as speak:
        await speak.say("Nobody wants to hear this, ever. It goes on. " * 5)
        await speak.send("Flush")
        await speak.say("And this is never begun.")
        await speak.until_audio()
        await speak.send("Clear")
        assert await speak.next() == {"type": "Cleared", "sequence_id": 0}
        await daemon.speech.until(lambda speech: speech.count(ClearIn) == 1)
        daemon.speech.pace = None
        await speak.say("This is new.")
        await speak.send("Flush", "Clear", "Clear")
        assert await speak.next() in ({"type": "Cleared", "sequence_id": 1}, {"type": "Flushed", "sequence_id": 0})
        assert decode(speak.audio) in ("", "This is new.")
    assert not any("never begun" in text for text in daemon.speech.texts())


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_messages(start: Start, seed: int) -> None:
    """After the last Clear everything is heard, before it a beginning; each Flush and each Clear is answered once."""
    random = Random(seed)
    async with start() as daemon, client(daemon) as speak:
        since: list[list[str]] = [[""]]  # texts by Flush, since each Clear
        for n in range(random.randint(1, 12)):
            match random.choice(["Speak", "Speak", "Flush", "Clear"]):
                case "Speak":
                    text = f"Number {n}. "
                    await speak.say(*tokens(text))
                    since[-1][-1] += text
                case "Flush":
                    await speak.send("Flush")
                    since[-1].append("")
                case "Clear":
                    await speak.send("Clear")
                    since.append([""])
            if random.random() < 0.3:
                await asyncio.sleep(0)
        await speak.send("Close")
        flushed = n_flushed = 0
        for texts in since[:-1]:
            answer: dict[str, Any] = {}
            for at in range(len(texts)):
                answer = await speak.next()
                heard = decode(speak.audio)
                assert " ".join(texts[at].split()).startswith(heard)
                if answer["type"] == "Cleared":
                    break
                flushed += 1
                assert heard == texts[at].strip()
                assert answer == {"type": "Flushed", "sequence_id": n_flushed}
                n_flushed += 1
            assert answer["type"] == "Cleared"
        for text in since[-1][:-1]:
            assert await speak.next() == {"type": "Flushed", "sequence_id": n_flushed}
            assert decode(speak.audio) == text.strip()
            n_flushed += 1
        assert await speak.next() == {"close": 1000, "reason": ""}
        assert decode(speak.audio) == since[-1][-1].strip()


async def test_a_lost_connection_to_the_endpoint_is_a_warning(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        daemon.speech.drops.append(Drop(How.RESET, at_frame=2))
        await speak.say(ANSWER)
        await speak.send("Flush")
        warned = await speak.next()
        before = speak.audio
        assert (warned["type"], warned["code"], warned["warn_code"]) == ("Warning", "RESUMED", "RESUMED")
        await speak.next()
        heard = decode(before + speak.audio).split()
        assert set(heard) >= set(ANSWER.split()[:-1])
    assert daemon.speech.connections == 2


async def test_an_endpoint_that_fails_ends_the_connection_and_says_why(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        daemon.speech.refusals.extend([401] * 5)
        daemon.speech.drops.append(Drop(How.RESET, at_frame=1))
        await speak.say(ANSWER)
        await speak.send("Flush")
        warned = await speak.next()
        assert warned["code"] == "NET-0000"
        assert "operator" in warned["description"]
        assert await speak.next() == {"close": 1011, "reason": "NET-0000"}


async def test_a_client_that_vanishes_stops_the_speech(start: Start) -> None:
    async with start(speech=FaultySpeech(coding=Coding(char_samples=2400), pace=1.0)) as daemon:
        async with client(daemon) as speak:
            await speak.say("It goes on and on, and on. " * 8)
            await speak.until_audio()
            connection = speak.ws._response.connection  # no public way to leave without a close frame
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
            await daemon.speech.until(lambda speech: speech.count(ClearIn) == 1)
        await daemon.daemon.until_unused()


async def test_a_client_that_reads_nothing_is_let_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SLOW_CLIENT_S", 300 * MS)
    async with start(speech=FaultySpeech(coding=Coding(char_samples=12_000))) as daemon, client(daemon) as speak:
        await speak.say("It goes on and on, and on. " * 30)  # 20 MB
        await speak.send("Flush")
        await daemon.daemon.until_unused()


async def test_too_many_messages_a_second_are_held_back_and_not_lost(start: Start) -> None:
    limits = ClientLimits(messages_per_s=100.0)
    text = "One word after the other. " * 30
    async with start(server=Server(limits=limits)) as daemon, client(daemon) as speak:
        await speak.say(*tokens(text))
        await speak.send("Flush")
        assert await speak.heard() == text.strip()


# --- what a client may ask for ----------------------------------------------------------------------------------------------


async def test_voice_format_and_speed(start: Start) -> None:
    settings: Callable[[Any], Any] = lambda all_: replace(  # noqa: E731
        all_, voices={"narrator": Voice(voice="aura-2-zeus-en", speech="faulty")}
    )
    async with start(change=settings) as daemon:
        for query in ("?model=narrator", "?model=alloy&sample_rate=16000", "?speed=1.5&mip_opt_out=true&tag=x"):
            async with client(daemon, query) as speak:
                await speak.say("Hello.")
                await speak.send("Flush")
                assert await speak.heard() == "Hello."


async def test_the_handshake(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    async with start(server=Server(keys=(Key(name="one", key=Secret(key)),))) as daemon:
        for headers in ({"Authorization": f"Token {key}"}, {"Authorization": f"bearer {key}"}):
            async with client(daemon, headers={**headers, "X-Request-Id": "abc-1"}) as speak:
                assert speak.ws._response.headers["dg-request-id"] == "abc-1"
        async with client(daemon, protocols=("token", key)) as speak:
            assert speak.ws.protocol == "token"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with client(daemon, headers={"Authorization": "Token wrong"}):
                pass
        assert refused.value.status == 401
        assert refused.value.headers is not None
        assert "key" in refused.value.headers["dg-error"]


@pytest.mark.parametrize(
    "query",
    [
        "?encoding=opus",
        "?encoding=mulaw&sample_rate=24000",
        "?sample_rate=44100",
        "?sample_rate=many",
        "?speed=fast",
        "?speed=9",
        "?speed=nan",
        "?container=wav",
        "?speed=1&speed=1",
    ],
)
async def test_a_query_is_refused_as_deepgram_does_it(start: Start, query: str) -> None:
    expected = parse_query(query[1:])
    assert isinstance(expected, Refusal)
    async with start() as daemon:
        async with daemon.http.get(f"/v1/speak{query}") as answer:
            body = await answer.json()
            assert answer.status == expected.status
            assert (body["err_code"], body["err_msg"]) == (expected.code, expected.message)
            assert answer.headers["dg-error"] == expected.message
            assert answer.headers["dg-request-id"] == body["request_id"]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
            async with client(daemon, query):
                pass
        async with client(daemon):  # it serves on
            pass


async def test_what_else_is_refused(start: Start) -> None:
    def few(settings: Any) -> Any:
        return replace(settings, speech={"faulty": replace(settings.speech["faulty"], voices=("aura-2-*",), connect_s=0.5)})

    async with start(change=few) as daemon:
        async with daemon.http.get("/v1/speak") as answer:
            assert answer.status == 426
            assert "WebSocket" in (await answer.json())["err_msg"]
        async with daemon.http.post("/v1/speak", json={"text": "Hello"}) as answer:
            assert answer.status == 405
        for status, refusals, query, words in (
            (400, [], "?model=nobody", "No such model"),
            (400, [400], "?model=aura-2-other-en", "voice"),
            (502, [401], "?model=aura-2-other-en", "operator"),
            (429, [429] * 9, "?model=aura-2-other-en", "later"),
        ):
            daemon.speech.refusals.extend(refusals)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with client(daemon, query):
                    pass
            daemon.speech.refusals.clear()
            assert refused.value.status == status
            assert refused.value.headers is not None
            assert words in refused.value.headers["dg-error"]


@pytest.mark.parametrize(
    ("message", "code", "reason", "words"),
    [
        ("", 1008, "DATA-0000", "JSON"),
        ("no JSON", 1008, "DATA-0000", "JSON"),
        ("[]", 1008, "DATA-0000", "Speak"),
        ("null", 1008, "DATA-0000", "Speak"),
        ('{"text": "Hello."}', 1008, "DATA-0000", "Speak"),
        ('{"type": "KeepAlive"}', 1008, "DATA-0000", "Speak"),
        ('{"type": "speak", "text": "Hello."}', 1008, "DATA-0000", "Speak"),
        ('{"type": "Speak"}', 1008, "DATA-0000", "text"),
        ('{"type": "Speak", "text": null}', 1008, "DATA-0000", "text"),
        ('{"type": "Speak", "text": 7}', 1008, "DATA-0000", "text"),
        ('{"type": "Speak", "text": "\\ud800"}', 1008, "DATA-0000", "JSON"),
        ("[" * 100_000, 1008, "DATA-0000", "JSON"),
        (json.dumps({"type": "Speak", "text": "x" * 2001}), 1009, "BIG-0001", "several"),
        (json.dumps({"type": "Speak", "text": "Hi.", "more": "x" * 1_000_000}), 1009, "BIG-0000", "several"),
        (b"\x00\x01", 1003, "MESSAGE-0000", "text"),
    ],
)
async def test_a_bad_message_closes_the_connection_and_is_explained(
    start: Start, message: str | bytes, code: int, reason: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with start() as daemon:
        async with client(daemon) as speak:
            await (speak.ws.send_str(message) if isinstance(message, str) else speak.ws.send_bytes(message))
            warned = await speak.next()
            assert (warned["type"], warned["code"]) == ("Warning", reason)
            assert words in warned["description"]
            assert await speak.next() == {"close": code, "reason": reason}
        async with client(daemon) as speak:
            await speak.say("It serves on.")
            await speak.send("Flush")
            assert await speak.heard() == "It serves on."
    assert [
        record for record in caplog.records if record.name.startswith(("llm2ws.", "aiohttp")) and record.levelno >= 30
    ] == []


@pytest.mark.parametrize(("data", "code"), [(b"\x83\x80\0\0\0\0", 1002), (b"\x81\x82\0\0\0\0\xff\xff", 1007)])
async def test_broken_frames(start: Start, data: bytes, code: int) -> None:
    """An opcode that does not exist; text that is no UTF-8."""
    async with start() as daemon:
        async with client(daemon) as speak:
            connection = speak.ws._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.write(data)
            assert (await speak.next())["close"] == code
        await daemon.daemon.until_unused()


async def test_fields_that_nobody_knows_are_ignored(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        await speak.ws.send_json({"type": "Speak", "text": "Hello.", "voice": "other", "more": [1]})
        await speak.send("Flush")
        assert await speak.heard() == "Hello."


async def test_limits_of_a_client(start: Start) -> None:
    async with start(server=Server(limits=ClientLimits(text_chars=50))) as daemon, client(daemon) as speak:
        await speak.say("x" * 30, "y" * 30)
        assert "50 characters" in (await speak.next())["description"]
        assert await speak.next() == {"close": 1008, "reason": "DATA-0001"}
    async with start(server=Server(limits=ClientLimits(text_chars=50))) as daemon, client(daemon) as speak:
        await speak.send(*["Flush"] * 20)
        for _ in range(20):
            await speak.heard()
        await speak.say("What was answered counts no more.")
        await speak.send("Flush")
        assert await speak.heard() == "What was answered counts no more."
    limits = ClientLimits(turn_speech_s=0.05)
    async with start(server=Server(limits=limits)) as daemon, client(daemon) as speak:
        await speak.say(ANSWER)
        await speak.send("Flush")
        assert "speech limit" in (await speak.next())["description"]
        assert await speak.next() == {"close": 1008, "reason": "DATA-0001"}
    limits = ClientLimits(hour_speech_s=0.05)
    async with start(server=Server(limits=limits)) as daemon:
        async with client(daemon) as speak:
            await speak.say(ANSWER)
            await speak.send("Flush")
            assert "speech" in (await speak.next())["description"]
            assert await speak.next() == {"close": 1008, "reason": "DATA-0001"}
        with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
            async with client(daemon):
                pass


# --- the end of the daemon --------------------------------------------------------------------------------------------------


async def test_a_daemon_that_stops_finishes_what_was_begun(start: Start) -> None:
    async with asyncio.timeout(30), start() as daemon, client(daemon) as idle, client(daemon) as busy:
        await busy.say("It was begun.")
        await daemon.speech.until(lambda speech: speech.count(SpeakIn) == 1)
        daemon.daemon.draining.set()
        assert (await idle.next())["code"] == "GOING_AWAY"
        assert await idle.next() == {"close": 1001, "reason": ""}
        await busy.say(" And it is finished.")
        await busy.send("Flush")
        assert await busy.heard() == "It was begun. And it is finished."
        assert "again" in (await busy.next())["description"]
        assert await busy.next() == {"close": 1001, "reason": ""}
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            async with client(daemon):
                pass


async def test_a_handshake_that_was_not_granted_when_the_daemon_stops_is_refused(start: Start) -> None:
    """Were it granted, the connection would be closed before the client's first message is read."""
    async with asyncio.timeout(30), start() as daemon:
        before = daemon.speech.handshakes
        daemon.speech.faults = Faults(handshake_s=100 * MS)
        joining = asyncio.create_task(daemon.http.ws_connect("/v1/speak?sample_rate=16000"))  # which none is open for
        await daemon.speech.until(lambda speech: speech.handshakes > before)
        daemon.daemon.draining.set()
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await joining


async def test_at_the_deadline_a_client_is_told(start: Start) -> None:
    async with start() as daemon, client(daemon) as speak:
        await speak.say("It has begun to be spoken. It is never flushed")
        await speak.until_audio()
        daemon.daemon.draining.set()
        for stop in list(daemon.daemon.turns):
            await stop()
        assert (await speak.next())["code"] == "GOING_AWAY"
        assert await speak.next() == {"close": 1001, "reason": ""}


async def test_pings_come_whether_they_are_answered_or_not(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2ws.server.speak.PING_S", 20 * MS)
    async with start() as daemon, daemon.http.ws_connect("/v1/speak", autoping=False) as ws:
        await ws.receive()  # Metadata
        assert [(await ws.receive()).type for _ in range(3)] == [WSMsgType.PING] * 3
        await ws.send_json({"type": "Speak", "text": ANSWER})
        await ws.send_json({"type": "Close"})
        audio = b""
        while (message := await ws.receive()).type is not WSMsgType.CLOSE:
            audio += message.data if message.type is WSMsgType.BINARY else b""
        assert decode(audio) == ANSWER


# --- Deepgram's own client --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's generated code, and the old half of websockets
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
async def test_the_sdk(start: Start, canary: Callable[[], str]) -> None:
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v1.types import SpeakV1Flushed, SpeakV1Metadata, SpeakV1Text

    key = canary()
    async with start(server=Server(keys=(Key(name="one", key=Secret(key)),)), speech=FaultySpeech(coding=CODING)) as daemon:
        ws = daemon.url.replace("http", "ws")
        environment = DeepgramClientEnvironment(base=daemon.url, production=ws, agent=ws, agent_rest=daemon.url)
        speak = AsyncDeepgramClient(api_key=key, environment=environment).speak.v1
        async with speak.connect(model="aura-2-thalia-en", encoding="linear16", sample_rate="24000") as socket:
            metadata = await socket.recv()
            assert isinstance(metadata, SpeakV1Metadata)
            assert str(uuid.UUID(metadata.request_id)) == metadata.request_id  # as the vendor's are
            for token in tokens(ANSWER):
                await socket.send_text(SpeakV1Text(type="Speak", text=token))
            await socket.send_flush()
            audio = b""
            while isinstance(message := await socket.recv(), bytes):
                audio += message
            assert isinstance(message, SpeakV1Flushed)
            assert (message.type, message.sequence_id) == ("Flushed", 0)
            assert decode(audio) == ANSWER
            await socket.send_text(SpeakV1Text(type="Speak", text="Never mind"))
            await socket.send_clear()
            cleared = await socket.recv()
            assert not isinstance(cleared, bytes)
            assert cleared.type == "Cleared"
            await socket.send_close()
            assert [message async for message in socket] == []
        for bad_key, options, status in ((key, {"sample_rate": "44100"}, 400), ("wrong", {}, 401)):
            other = AsyncDeepgramClient(api_key=bad_key, environment=environment).speak.v1
            with pytest.raises(ApiError) as refused:
                async with other.connect(model="aura-2-thalia-en", **options):
                    pass
            assert refused.value.status_code == status
