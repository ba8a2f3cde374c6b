from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.localspeech.engine import Engine
from llm2ws.localspeech.server import SpeechServer
from llm2ws.speech.dialects.deepgram_server import ServerLimits
from tests.localspeech.test_engine import SENTENCES, pauses
from tests.support import MS

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLUSH, CLEAR, CLOSE = '{"type":"Flush"}', '{"type":"Clear"}', '{"type":"Close"}'
PLAIN = AudioFormat(Encoding.LINEAR16, 24000)
LONG = "This sentence, which is not short, is said again and again. " * 30

# At DEBUG the client logs every frame, and the key among the subprotocols.
QUIET = logging.getLogger("tests.localspeech.client")
QUIET.setLevel(logging.INFO)


def speak(text: str) -> str:
    return json.dumps({"type": "Speak", "text": text})


@asynccontextmanager
async def client(server: SpeechServer, query: str = "model=en-us", **options: Any) -> AsyncIterator[ClientConnection]:
    """A connection that has had its Metadata."""
    async with connect(f"{server.url}?{query}", compression=None, proxy=None, logger=QUIET, **options) as ws:
        assert json.loads(await ws.recv())["type"] == "Metadata"
        yield ws


class Heard(NamedTuple):
    """What came up to a text message: that message, and the binary ones before it."""

    message: dict[str, Any]
    frames: list[bytes]

    @property
    def audio(self) -> bytes:
        return b"".join(self.frames)


async def hear(ws: ClientConnection) -> Heard:
    frames = []
    while isinstance(message := await ws.recv(), bytes):
        frames.append(message)
    return Heard(json.loads(message), frames)


async def ending(ws: ClientConnection) -> tuple[int | None, str | None]:
    """Read to the end: how it was closed."""
    with contextlib.suppress(ConnectionClosed):
        while await ws.recv() is not None:
            pass
    return ws.close_code, ws.close_reason


@pytest_asyncio.fixture(loop_scope="module")
async def server(engine: Engine) -> AsyncIterator[SpeechServer]:
    async with SpeechServer(engine) as started:
        yield started


# --- the handshake ---------------------------------------------------------------------------------------------------------


async def test_metadata_names_the_request_of_the_handshake(server: SpeechServer) -> None:
    async with connect(f"{server.url}?model=aura-2-thalia-en", proxy=None) as ws:
        metadata = json.loads(await ws.recv())
        assert ws.response is not None
        assert metadata["request_id"] == ws.response.headers["dg-request-id"]
        assert metadata["model_name"] == "aura-2-thalia-en"
        assert set(metadata) == {"type", "request_id", "model_name", "model_version", "model_uuid"}


async def refusal(url: str, **options: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None, logger=QUIET, **options)
    return refused.value


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("model=aura-2-nobody-xx", "Bad Request"),
        ("model=gpt-5", "Bad Request"),
        ("sample_rate=44100", "INVALID_QUERY_PARAMETER"),
        ("encoding=opus", "INVALID_QUERY_PARAMETER"),
        ("speed=9", "INVALID_QUERY_PARAMETER"),
    ],
)
async def test_a_query_that_cannot_be_served(server: SpeechServer, query: str, code: str) -> None:
    response = (await refusal(f"{server.url}?{query}")).response
    body = json.loads(response.body or b"")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert body == {
        "err_code": code,
        "err_msg": response.headers["dg-error"],
        "request_id": response.headers["dg-request-id"],
    }


async def test_other_paths_are_not_found(server: SpeechServer) -> None:
    assert (await refusal(server.url.replace("/v1/speak", "/v1/listen"))).response.status_code == 404


async def test_the_key_by_header_and_by_subprotocol(engine: Engine, canary: Callable[[], str]) -> None:
    key, other = canary(), canary()
    async with SpeechServer(engine, key=key) as server:
        for headers in ({"Authorization": f"Token {key}"}, {"Authorization": f"bearer {key}"}):
            async with client(server, additional_headers=headers):
                pass
        for scheme in ("token", "bearer"):
            async with client(server, subprotocols=[Subprotocol(scheme), Subprotocol(key)]) as ws:
                assert ws.subprotocol == scheme
        wrong: list[dict[str, Any]] = [
            {},
            {"additional_headers": {"Authorization": f"Token {other}"}},
            {"additional_headers": {"Authorization": f"Basic {key}"}},
            {"additional_headers": {"Authorization": key}},
            {"additional_headers": [("Authorization", f"Token {key}")] * 2},
            {"subprotocols": [Subprotocol("token"), Subprotocol(other)]},
        ]
        for options in wrong:
            response = (await refusal(f"{server.url}?sample_rate=1", **options)).response
            assert response.status_code == 401
            assert json.loads(response.body or b"")["err_code"] == "INVALID_AUTH"


async def test_no_form_of_a_key_is_logged(engine: Engine, canary: Callable[[], str], caplog: pytest.LogCaptureFixture) -> None:
    """The fixture `canary` fails the test if a key is in any line, of whichever library, at any level."""
    key = canary()
    headers = [
        f"Sec-WebSocket-Protocol: {offer}"
        for offer in (
            f"openai-insecure-api-key.{key}",
            f"token, {key}",
            f"{key}, token",
            f"token {key}",
            f"token, {key},;",
            key,
        )
    ]
    headers += [f"Authorization: {key}", f"Broken header {key}", f"Content-Length: {key}", f"Upgrade: {key}", f"Host: {key}"]
    async with SpeechServer(engine, key=key) as server:
        for header in headers:
            for more in ("", f"Origin: {key}\r\nOrigin: {key}\r\n", f"Authorization: Token {key}\r\n"):
                reader, writer = await asyncio.open_connection(*server.address)
                request = (
                    f"GET /v1/speak?key={key} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                )
                request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                writer.write(f"{request}{more}{header}\r\n\r\n".encode())
                assert await reader.read(9) in (b"HTTP/1.1 ", b""), header
                writer.close()
                await writer.wait_closed()
    assert not [record for record in caplog.records if record.name.startswith("llm2ws") and record.levelno >= logging.ERROR]


async def test_a_page_of_another_site_may_not_use_an_open_endpoint(server: SpeechServer) -> None:
    assert (await refusal(server.url, origin="https://evil.example")).response.status_code == 403
    assert (await refusal(server.url, origin="null")).response.status_code == 403
    twice = [("Origin", "http://localhost"), ("Origin", "https://evil.example")]
    assert (await refusal(server.url, additional_headers=twice)).response.status_code == 403
    async with client(server, origin="http://localhost:8765"):
        pass


async def test_a_malformed_request_is_no_error_of_the_server(engine: Engine) -> None:
    async with SpeechServer(engine, key="key") as server, asyncio.timeout(10):

        async def status(path: bytes, *headers: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(*server.address)
            fields = (b"Host: localhost", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
            key = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
            writer.write(b"\r\n".join((b"GET " + path + b" HTTP/1.1", *fields, key, *headers, b"\r\n")))
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line.split()[1]

        right = b"Authorization: Token key"
        assert await status(b"/v1/speak", right) == b"101"
        assert await status(b"/v1/speak", b"Authorization: Token Schl\xff") == b"401"
        assert await status(b"//[", right) == b"404"
        assert await status(b"/v1/speak?model=%ff%00", right) == b"400"
    async with SpeechServer(engine) as server, asyncio.timeout(10):
        assert await status(b"/v1/speak", b"Origin: http://[") == b"403"


async def test_too_many_connections(engine: Engine) -> None:
    async with SpeechServer(engine, max_connections=1) as server:
        async with client(server):
            response = (await refusal(server.url)).response
            assert response.status_code == 429
            assert json.loads(response.body or b"")["err_code"] == "TOO_MANY_REQUESTS"
        async with client(server):
            pass


# --- speaking --------------------------------------------------------------------------------------------------------------


async def test_text_is_spoken_at_the_flush_and_acknowledged_in_order(server: SpeechServer) -> None:
    async with client(server) as ws:
        for text in ("One, two, ", "three.", FLUSH):
            await ws.send(text if text == FLUSH else speak(text))
        await ws.send(speak("Four."))
        await ws.send(FLUSH)
        await ws.send(FLUSH)
        first, second, third = await hear(ws), await hear(ws), await hear(ws)
        assert [heard.message for heard in (first, second, third)] == [{"type": "Flushed", "sequence_id": n} for n in range(3)]
        assert 1.0 < PLAIN.seconds(len(first.audio)) < 2.0
        assert 0.2 < PLAIN.seconds(len(second.audio)) < 1.0
        assert third.frames == []
        assert {len(frame) for frame in first.frames[:-1]} == {PLAIN.bytes_for(0.04)}


async def test_texts_are_joined_as_they_are(server: SpeechServer, engine: Engine) -> None:
    async with client(server) as ws:
        for text in ("Hel", "lo wor", "ld", FLUSH):
            await ws.send(text if text == FLUSH else speak(text))
        split = await hear(ws)
        await ws.send(speak("Hello world"))
        await ws.send(FLUSH)
        whole = await hear(ws)
        assert len(split.audio) == pytest.approx(len(whole.audio), rel=0.02)


async def test_sentences_have_their_pauses_however_they_are_flushed(server: SpeechServer) -> None:
    """A Flush at ends of sentences or within them, or in neither; a sentence in any number of Speaks."""
    dice = random.Random(5)
    async with client(server) as ws:
        for _ in range(20):
            sentences = [dice.choice(SENTENCES) for _ in range(dice.randrange(1, 6))]
            text = " ".join(sentences) + " "
            cuts = [m.end() for m in re.finditer(r"\s", text) if dice.random() < 0.4]
            audio = b""
            for begin, end in itertools.pairwise([0, *cuts, len(text)]):
                await ws.send(speak(text[begin:end]))
                if end == len(text) or dice.random() < 0.3:
                    await ws.send(FLUSH)
                    audio += (await hear(ws)).audio
            lengths = [end - begin for begin, end in pauses(audio)]
            colons = text.count(":") - sum(text[:cut].endswith(": ") for cut in cuts)
            assert len(sentences) + colons <= len(lengths) <= len(sentences) + text.count(":"), (text, cuts)
            assert all(0.2 <= length <= 0.5 for length in lengths), (text, cuts, lengths)


async def test_nothing_comes_before_the_flush(server: SpeechServer) -> None:
    async with client(server) as ws:
        await ws.send(speak("Not yet."))
        await ws.send(CLEAR)
        heard = await hear(ws)
        assert heard == ({"type": "Cleared", "sequence_id": 0}, [])


async def test_clear_stops_in_mid_word_and_voids_all_that_waits(engine: Engine) -> None:
    async with SpeechServer(engine, pace=1.0) as server, client(server) as ws:
        for _ in range(3):
            await ws.send(speak(LONG))
            await ws.send(FLUSH)
        await ws.send(speak("never flushed"))
        assert isinstance(await ws.recv(), bytes)
        await ws.send(CLEAR)
        heard = await hear(ws)
        assert heard.message == {"type": "Cleared", "sequence_id": 0}
        assert len(heard.frames) < 25
        await ws.send(FLUSH)
        assert await hear(ws) == ({"type": "Flushed", "sequence_id": 0}, [])
        await ws.send(speak("Again."))
        await ws.send(FLUSH)
        after = await hear(ws)
        assert after.message == {"type": "Flushed", "sequence_id": 1}
        assert 0.2 < PLAIN.seconds(len(after.audio)) < 1.0


async def test_clear_after_clear_at_full_speed(server: SpeechServer) -> None:
    async with client(server) as ws:
        for n in range(20):
            await ws.send(speak(LONG))
            await ws.send(FLUSH)
            await ws.send(CLEAR)
            message = (await hear(ws)).message
            assert message == {"type": "Cleared", "sequence_id": n}


async def test_close_speaks_what_is_left_and_then_closes(server: SpeechServer) -> None:
    async with client(server) as ws:
        await ws.send(speak("Flushed text."))
        await ws.send(FLUSH)
        await ws.send(speak("Text without a flush."))
        await ws.send(CLOSE)
        first, second = await hear(ws), await hear(ws)
        assert first.frames
        assert second.frames
        assert await ending(ws) == (1000, "")


async def test_close_with_nothing_to_say(server: SpeechServer) -> None:
    async with client(server) as ws:
        await ws.send(CLOSE)
        assert await ending(ws) == (1000, "")


@pytest.mark.parametrize(
    ("query", "fmt"),
    [
        ("encoding=mulaw", AudioFormat(Encoding.MULAW, 8000)),
        ("encoding=alaw&sample_rate=16000", AudioFormat(Encoding.ALAW, 16000)),
        ("sample_rate=48000", AudioFormat(Encoding.LINEAR16, 48000)),
    ],
)
async def test_formats(server: SpeechServer, query: str, fmt: AudioFormat) -> None:
    async with client(server, f"model=en-us&{query}") as ws:
        await ws.send(speak("One, two, three."))
        await ws.send(FLUSH)
        heard = await hear(ws)
        assert 1.0 < fmt.seconds(len(heard.audio)) < 2.0
        assert len(heard.frames[0]) == fmt.bytes_for(0.04)


async def test_speed(server: SpeechServer) -> None:
    lengths = []
    for speed in ("0.7", "1.5"):
        async with client(server, f"model=en-us&speed={speed}") as ws:
            await ws.send(speak("One, two, three."))
            await ws.send(FLUSH)
            lengths.append(len((await hear(ws)).audio))
    assert lengths[0] > 1.5 * lengths[1]


# --- how it ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"\0\1", 1003, "MESSAGE-0000"),
        ("hello", 1008, "DATA-0000"),
        ('{"type":"KeepAlive"}', 1008, "DATA-0000"),
        (speak("a" * 2001), 1009, "BIG-0001"),
        ("x" * 2_000_001, 1009, "BIG-0000"),
    ],
)
async def test_what_the_protocol_does_not_allow(server: SpeechServer, message: str | bytes, code: int, reason: str) -> None:
    async with client(server) as ws:
        await ws.send(message)
        assert await ending(ws) == (code, reason)


async def test_a_violation_ends_the_speaking_too(server: SpeechServer) -> None:
    async with client(server) as ws:
        await ws.send(speak(LONG))
        await ws.send(FLUSH)
        await ws.send("hello")
        assert await ending(ws) == (1008, "DATA-0000")


async def test_text_without_end_is_refused(server: SpeechServer) -> None:
    async with client(server) as ws:
        for _ in range(101):
            await ws.send(speak("a" * 2000))
        assert await ending(ws) == (1008, "DATA-0001")


async def test_limits(engine: Engine) -> None:
    async with SpeechServer(engine, limits=ServerLimits(chars=10, flushes=2)) as server, client(server) as ws:
        for _ in range(3):
            await ws.send(FLUSH)
        answers = [(await hear(ws)).message for _ in range(3)]
        warning = next(answer for answer in answers if answer["type"] == "Warning")
        assert [answer["type"] for answer in answers].count("Flushed") == 2
        assert warning["warn_code"] == warning["code"] == "EXCESSIVE_FLUSH"
        await ws.send(speak("0123456789"))
        await ws.send(speak("x"))
        assert await ending(ws) == (1008, "DATA-0001")


async def test_a_session_has_its_length(engine: Engine) -> None:
    async with SpeechServer(engine, limits=ServerLimits(session_s=100 * MS), pace=1.0) as server, client(server) as ws:
        await ws.send(speak(LONG))
        await ws.send(FLUSH)
        assert await ending(ws) == (1011, "NET-0003")


async def test_a_dead_engine_closes_those_who_were_being_served_and_no_others(fragile: Engine) -> None:
    async with SpeechServer(fragile) as server, client(server) as idle, client(server) as ws:
        for _ in range(50):
            await ws.send(speak(LONG))
        await ws.send(FLUSH)
        await ws.recv()
        first = fragile.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert await ending(ws) == (1011, "NET-0000")
        await idle.send(speak("Still here."))
        await idle.send(FLUSH)
        assert (await hear(idle)).frames
        assert fragile.pid != first


async def test_a_text_of_which_the_engine_dies_is_refused_for_good_and_others_are_served(fragile: Engine) -> None:
    async with SpeechServer(fragile) as server:
        async with client(server, "model=vi") as ws:
            await ws.send(speak("\u2460-a"))
            await ws.send('{"type":"Flush"}')
            assert await ending(ws) == (1008, "the speech engine died of this text")
        async with client(server) as ws:
            await ws.send(speak("And on it goes."))
            await ws.send('{"type":"Flush"}')
            assert (await hear(ws)).audio


async def test_an_engine_in_a_crash_loop_is_unavailable() -> None:
    async with Engine(crashes=1, crash_window_s=600) as engine, SpeechServer(engine) as server, client(server) as ws:
        assert engine.pid is not None
        for _ in range(50):
            await ws.send(speak(LONG))
        await ws.send(FLUSH)
        await ws.recv()
        os.kill(engine.pid, signal.SIGKILL)
        assert await ending(ws) == (1011, "NET-0000")
        assert (await refusal(server.url)).response.status_code == 503


async def test_stopping_finishes_what_was_flushed(engine: Engine) -> None:
    async with SpeechServer(engine) as server, client(server) as ws, client(server) as idle:
        await ws.send(speak(LONG))
        await ws.send(FLUSH)
        first = await ws.recv()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.stop(grace_s=30))
            heard = await hear(ws)
            assert heard.message["type"] == "Flushed"
            assert PLAIN.seconds(len(first) + len(heard.audio)) > 60
            assert await ending(ws) == await ending(idle) == (1001, "")


async def test_leaving_closes_at_once(engine: Engine) -> None:
    async with SpeechServer(engine, pace=1.0) as server:
        ws = await connect(server.url, proxy=None)
        await ws.send(speak(LONG))
        await ws.send(FLUSH)
    assert await ending(ws) == (1001, "")


async def test_a_peer_that_says_nothing_does_not_hold_up_the_end(engine: Engine) -> None:
    async with SpeechServer(engine) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        async with client(server):  # so that the server has seen the one before
            pass
        async with asyncio.timeout(5):  # half of the time that a handshake may take
            await server.stop()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


# --- many, and slow --------------------------------------------------------------------------------------------------------


async def test_fifty_at_once(server: SpeechServer) -> None:
    async def one(n: int) -> float:
        async with client(server) as ws:
            await ws.send(speak(f"Number {n} says one, two, three."))
            await ws.send(FLUSH)
            return PLAIN.seconds(len((await hear(ws)).audio))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(50)]
    assert all(1.5 < task.result() < 4 for task in tasks)


@asynccontextmanager
async def client_that_does_not_read(server: SpeechServer) -> AsyncIterator[None]:
    """It has asked for more audio than the buffers of the kernel hold."""
    sock = socket.create_connection(server.address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.write(
        b"GET /v1/speak?model=en-us&sample_rate=48000 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    mask = bytes(4)
    for message in (*[speak(LONG)] * 60, FLUSH):
        data = message.encode()
        length = bytes([0xFE]) + len(data).to_bytes(2) if len(data) > 125 else bytes([0x80 | len(data)])
        writer.write(b"\x81" + length + mask + data)
    try:
        await writer.drain()
        yield
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_client_that_does_not_read_holds_up_nobody(engine: Engine) -> None:
    async with SpeechServer(engine) as server, client_that_does_not_read(server), client(server) as ws:
        await ws.send(speak(LONG))
        await ws.send(FLUSH)
        assert PLAIN.seconds(len((await hear(ws)).audio)) > 60
        await server.stop()  # nor can it hold up the end


async def test_a_client_that_does_not_read_is_given_up(engine: Engine) -> None:
    async with SpeechServer(engine, stall_s=100 * MS) as server, client_that_does_not_read(server):
        [session] = server._sessions
        await session._ws.wait_closed()


async def test_pace_and_first_byte(engine: Engine) -> None:
    now = asyncio.get_running_loop().time
    async with SpeechServer(engine, pace=10.0, first_byte_s=150 * MS, frame_ms=100) as server, client(server) as ws:
        await ws.send(speak("This takes a second or two."))
        flushed_at = now()
        await ws.send(FLUSH)
        frame = await ws.recv()
        first_at = now()
        heard = await hear(ws)
        assert len(frame) == PLAIN.bytes_for(0.1)
        assert first_at - flushed_at >= 150 * MS
        # All but the last frame must have gone out at ten times the speed of speech, and no faster.
        assert now() - first_at >= (PLAIN.seconds(len(heard.audio)) - 0.2) / 10


# --- starting --------------------------------------------------------------------------------------------------------------


async def test_a_port_in_use(engine: Engine, server: SpeechServer) -> None:
    host, port = server.address
    with pytest.raises(ConfigError, match=f"cannot listen on {host}:{port}"):
        async with SpeechServer(engine, port=port):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.org"])
async def test_without_a_key_only_this_machine_is_served(engine: Engine, host: str) -> None:
    with pytest.raises(ConfigError, match="set a key"):
        SpeechServer(engine, host=host)


async def test_a_wide_open_endpoint_can_be_asked_for(engine: Engine) -> None:
    async with (
        SpeechServer(engine, host="0.0.0.0", insecure=True) as server,
        connect(f"ws://127.0.0.1:{server.address[1]}/v1/speak", proxy=None) as ws,
    ):
        assert json.loads(await ws.recv())["type"] == "Metadata"


@pytest.mark.parametrize(
    "options", [{"key": ""}, {"key": "a b"}, {"key": "ä"}, {"pace": 0.0}, {"pace": -1.0}, {"frame_ms": 10}, {"frame_ms": 200}]
)
async def test_settings_that_make_no_sense(engine: Engine, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SpeechServer(engine, **options)
