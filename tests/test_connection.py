"""One connection over real sockets: handshakes granted and refused, certificates, keys, closes, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from llm2ws import connection as module
from llm2ws.audio import AudioFormat
from llm2ws.connection import Connection, client_tls
from llm2ws.errors import ConfigError, ConnectFailed, LocalProtocolError
from llm2ws.speech.deepgram import Deepgram
from llm2ws.speech.deepgram_server import CloseIn, FlushIn
from llm2ws.speech.dialect import Setup, Traits
from llm2ws.speech.messages import Audio, Cancelled, Ended, Event, Failed, FlushAcked
from llm2ws.testing import Coding, Drop, Faults, FaultyNetwork, FaultySpeech, How, decode

FORMAT = AudioFormat(sample_rate_hz=8_000)
CODING = Coding(char_samples=8, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)


def dialect(url: str, key: str = "") -> Deepgram:
    return Deepgram(Setup(url, "", FORMAT, key))


@asynccontextmanager
async def opened(
    url: str, key: str = "", *, tls: ssl.SSLContext | None = None, like: type[Deepgram] = Deepgram
) -> AsyncIterator[Connection]:
    connection = await Connection.open(like(Setup(url, "", FORMAT, key)), tls=tls, silence_s=5.0)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.run())
        try:
            yield connection
        finally:
            await connection.aclose()


class Events:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        self._news.set()

    async def until(self, kind: type[Event]) -> Event:
        while not any(isinstance(event, kind) for event in self.all):
            self._news.clear()
            await self._news.wait()
        return next(event for event in self.all if isinstance(event, kind))

    @property
    def text(self) -> str:
        return decode(b"".join(event.data for event in self.all if isinstance(event, Audio)))


async def test_a_turn_from_lease_to_end() -> None:
    async with FaultySpeech(coding=CODING) as speech, opened(speech.url) as connection:
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
        assert [type(event) for event in events.all if not isinstance(event, Audio)] == [FlushAcked, FlushAcked, Ended]
        assert (slot.live, connection.places, connection.audio_came) == (False, 1, True)
        slot.cancel()  # it is free: nothing happens
        assert speech.count(FlushIn) == 2


async def test_after_cancel_nothing_but_cancelled_comes() -> None:
    async with FaultySpeech(coding=CODING, pace=1.0, max_frame_bytes=50) as speech, opened(speech.url) as connection:
        speech.faults = Faults(audio_after_clear_s=0.02, stale_flushed=True)
        events = Events()
        slot = connection.lease(events)
        slot.speak("a long text that goes on and on " * 5)
        slot.flush()
        await events.until(Audio)
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
    how: How, code: int, reason: str, what: str, retry: bool
) -> None:
    async with FaultySpeech(coding=CODING) as speech, opened(speech.url) as connection:
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


async def test_silence_while_audio_is_owed_ends_the_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech:
        speech.faults = Faults(first_byte_s=math.inf)
        connection = await Connection.open(dialect(speech.url), silence_s=0.02)
        events = Events()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.run())
            slot = connection.lease(events)
            slot.speak("Hello ")
            slot.flush()
            failed = await events.until(Failed)
        assert isinstance(failed, Failed)
        assert "has sent nothing" in failed.what


async def test_a_peer_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)

    class Impatient(Deepgram):
        traits = Traits(ping_s=0.03)

    async with FaultySpeech() as speech, FaultyNetwork(speech.port) as network:
        async with opened(f"ws://127.0.0.1:{network.port}", like=Impatient) as connection:
            events = Events()
            connection.lease(events)
            network.swallow()
            failed = await events.until(Failed)
            assert isinstance(failed, Failed)
            assert "pings" in failed.what


# --- the handshake


async def refusal(url: str, key: str = "", *, tls: ssl.SSLContext | None = None, open_s: float = 5.0) -> ConnectFailed:
    with pytest.raises(ConnectFailed) as caught:
        await Connection.open(dialect(url, key), tls=tls, open_s=open_s)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500, 503])
async def test_a_refused_handshake_says_what_to_do(status: int, canary: Callable[[], str]) -> None:
    async with FaultySpeech() as speech:
        speech.refusals.append(status)
        error = await refusal(speech.url, canary())
        assert error.status == status
        assert f"ws://127.0.0.1:{speech.port}/v1/speak: answered HTTP {status}" in error.what
        assert (error.retry_s is not None) == (status in (429, 500, 503))


async def test_a_wrong_key_is_named_as_such(canary: Callable[[], str]) -> None:
    async with FaultySpeech(key=canary()) as speech:
        error = await refusal(speech.url, canary())
        assert "DEEPGRAM_API_KEY" in error.hint
        assert (error.status, error.retry_s) == (401, None)


async def test_a_key_is_in_no_log_even_where_the_library_is_asked_for_everything(
    canary: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    key = canary()
    for name in ("", "websockets", "websockets.client", "asyncio", "llm2ws"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with FaultySpeech(coding=CODING, key=key) as speech, opened(speech.url, key) as connection:
        events = Events()
        slot = connection.lease(events)
        slot.speak("A secret of the model. ")
        slot.end()
        await events.until(Ended)
        assert key not in repr(connection)
        assert key not in repr(slot)
    assert key not in caplog.text
    assert "secret of the model" not in caplog.text


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 101 OK\r\n\r\n", b"\x16\x03\x01\x02", b"SSH-2.0-x\r\n"])
async def test_what_is_no_websocket_server_is_named(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        error = await refusal(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert "did not answer as a WebSocket server" in error.what


async def test_where_nothing_listens() -> None:
    async with FaultySpeech() as speech:
        url = speech.url
    error = await refusal(url)
    assert "nothing listens there" in error.what
    assert error.retry_s is not None


async def test_a_handshake_that_is_never_answered_is_given_up() -> None:
    async with FaultySpeech() as speech:
        speech.faults = Faults(handshake_s=math.inf)
        assert "did not answer within 0.05 s" in (await refusal(speech.url, open_s=0.05)).what


async def test_an_open_that_is_cancelled_leaves_nothing() -> None:
    async with FaultySpeech() as speech:
        speech.faults = Faults(handshake_s=math.inf)
        task = asyncio.create_task(Connection.open(dialect(speech.url)))
        await speech.until(lambda s: s.handshakes == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_proxies_are_ignored_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with FaultySpeech() as speech, opened(speech.url) as connection:
        assert connection.places == 1


async def test_proxies_are_used_for_vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[bytes]()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        error = await refusal("wss://speech.example/", "not sent")
    assert asked[0].startswith(b"CONNECT speech.example:443 ")
    assert b"not sent" not in asked[0]
    assert "proxy" in str(error).lower()


async def test_a_key_in_clear_text_to_another_machine_is_not_even_tried(canary: Callable[[], str]) -> None:
    with pytest.raises(ConfigError, match="in clear text"):
        await Connection.open(dialect("ws://192.0.2.1:1/v1/speak", canary()))


# --- certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_tls(authority: trustme.CA, host: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    not_after = datetime(2021, 1, 1, tzinfo=UTC) if expired else None
    not_before = datetime(2020, 1, 1, tzinfo=UTC) if expired else None
    authority.issue_cert(host, not_before=not_before, not_after=not_after).configure_cert(context)
    return context


async def test_a_private_authority_can_be_named(authority: trustme.CA, ca_file: str, canary: Callable[[], str]) -> None:
    key = canary()
    async with FaultySpeech(coding=CODING, tls=server_tls(authority), key=key) as speech:
        async with opened(speech.url, key, tls=client_tls(ca_file)) as connection:
            events = Events()
            slot = connection.lease(events)
            slot.speak("Hello. ")
            slot.end()
            await events.until(Ended)
            assert events.text == "Hello."


async def test_each_fault_of_a_certificate_has_its_name(authority: trustme.CA, ca_file: str) -> None:
    named = client_tls(ca_file)
    for context, client, what in (
        (server_tls(authority), None, "unknown authority"),
        (server_tls(authority), client_tls(), "unknown authority"),
        (server_tls(authority, "elsewhere.example"), named, "for another host"),
        (server_tls(authority, expired=True), named, "expired"),
    ):
        async with FaultySpeech(tls=context) as speech:
            error = await refusal(speech.url, "not sent", tls=client)
            assert what in error.what
            assert error.retry_s is None
            assert speech.handshakes == 0


async def test_tls_where_there_is_none(ca_file: str) -> None:
    async with FaultySpeech() as speech:
        error = await refusal(speech.url.replace("ws:", "wss:"), tls=client_tls(ca_file))
        assert "no TLS there" in error.what or "hung up" in error.what  # as the reset comes before or after its answer
        assert "ws://" in error.hint


def test_a_file_that_names_no_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.pem: No such file"):
        client_tls(str(tmp_path / "missing.pem"))
    bad = tmp_path / "bad.pem"
    bad.write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"bad\.pem: not a PEM certificate"):
        client_tls(str(bad))


# --- closing


async def test_closing_is_said_and_waited_for() -> None:
    async with FaultySpeech(coding=CODING) as speech:
        async with opened(speech.url) as connection:
            await connection.aclose()
            assert connection.ended is not None
            assert connection.ended.ours
            await connection.aclose()  # again: nothing happens
        assert speech.count(CloseIn) == 1
        assert [how.code for how in speech.closed_with] == [1000]


async def test_an_endpoint_that_does_not_close_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_S", 0.02)
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    async with FaultySpeech(coding=CODING) as speech:
        speech.faults = Faults(flushed_s=math.inf)
        async with opened(speech.url) as connection:
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


async def test_a_listener_that_raises_ends_the_connection_and_is_heard_of() -> None:
    def listener(event: Event) -> None:
        if isinstance(event, Audio):
            raise KeyError("a bug")

    async with FaultySpeech(coding=CODING) as speech:
        connection = await Connection.open(dialect(speech.url))
        slot = connection.lease(listener)
        slot.speak("Hello. ")
        slot.end()
        with pytest.raises(BaseExceptionGroup) as caught:
            await connection.run()
        assert caught.group_contains(KeyError)
        await connection.aclose()  # does not wait for what will not come
        await speech.until(lambda s: s.open == 0)


async def test_a_connection_that_is_given_up_ends_at_once() -> None:
    async with FaultySpeech() as speech:
        connection = await Connection.open(dialect(speech.url))
        events = Events()
        connection.lease(events)
        task = asyncio.create_task(connection.run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(event) for event in events.all] == [Failed]
        await speech.until(lambda s: s.open == 0)
