"""All the ways in which an endpoint ends a handshake, over real sockets, with both event loops: each is a ConnectFailed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat
from llm2ws.errors import ConnectFailed
from llm2ws.links.websocket import open_websocket
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from tests.support import MS

OPEN_S = 20_000 * MS
SILENT_S = 200 * MS  # after which one that is silent is given up
FORMAT = AudioFormat(sample_rate_hz=8_000)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
both_loops = pytest.mark.parametrize("loop", LOOPS)

Behaviour = Callable[[socket.socket], None]


@contextlib.contextmanager
def endpoint(behave: Behaviour) -> Iterator[str]:
    """An endpoint in a thread, so that its end may come before our request: `behave` has each connection. Gives HOST:PORT."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                behave(client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        listener.close()
        thread.join()


def ended(
    url: str, loop: str, key: str = "", *, tls: ssl.SSLContext | None = None, open_s: float = OPEN_S
) -> ConnectFailed | None:
    """How a handshake ends; None when it is granted."""

    async def attempt() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
        link = await open_websocket(Deepgram(Setup(url, "", FORMAT, key)), tls=tls, open_s=open_s, close_s=SILENT_S)
        link.abort()
        await link.close()

    unforeseen = list[dict[str, object]]()
    with asyncio.Runner(loop_factory=LOOPS[loop], debug=True) as runner:
        try:
            runner.run(attempt())
        except ConnectFailed as exc:
            error = exc
        else:
            return None
    assert not unforeseen or "speech.example" in url  # the library fails its own callbacks when a proxy hangs up
    where, _, what = error.what.partition("/v1/speak: ")
    assert where.startswith("speech endpoint ws")
    assert what
    assert error.hint
    assert "Error" not in str(error)  # the name of a class is no reason
    assert "\n" not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


def request(client: socket.socket) -> bytes:
    """Read a request, or what is there until its sender stops."""
    data = b""
    while b"\r\n\r\n" not in data and (more := client.recv(65_536)):
        data += more
    return data


def hold(client: socket.socket) -> None:
    """Say nothing until the client has gone."""
    while client.recv(65_536):
        pass


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def granted(asked: bytes, accept: bytes | None = None) -> bytes:
    """The answer that opens a WebSocket. `accept`: another proof than the right one."""
    keys = [line.partition(b": ")[2] for line in asked.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
    right = base64.b64encode(hashlib.sha1(b"".join(keys) + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return upgrade + b"Sec-WebSocket-Accept: " + (right if accept is None else accept) + b"\r\n\r\n"


def says(answer: bytes | Callable[[bytes], bytes], end: Behaviour = hold) -> Behaviour:
    """Reads the request, answers it, and ends."""

    def behave(client: socket.socket) -> None:
        asked = request(client)
        client.sendall(answer if isinstance(answer, bytes) else answer(asked))
        end(client)

    return behave


def says_at_once(answer: bytes, end: Behaviour = hold) -> Behaviour:
    """Answers without waiting for a request, as a balancer without servers does."""

    def behave(client: socket.socket) -> None:
        client.sendall(answer)
        end(client)

    return behave


def then_stops(client: socket.socket) -> None:
    """Send no more, and read on."""
    client.shutdown(socket.SHUT_WR)
    hold(client)


def with_header(line: bytes) -> Callable[[bytes], bytes]:
    return lambda asked: granted(asked)[:-2] + line + b"\r\n\r\n"


def without(name: bytes) -> Callable[[bytes], bytes]:
    return lambda asked: b"\r\n".join(line for line in granted(asked).split(b"\r\n") if not line.startswith(name))


def drip(client: socket.socket) -> None:
    """An answer that never ends, a header at a time."""
    request(client)
    client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
    while True:
        client.sendall(b"X-Slow: yes\r\n")
        client.settimeout(SILENT_S / 10)
        with contextlib.suppress(TimeoutError):
            if not client.recv(1):
                return


HUNG_UP, NO_WEBSOCKET, SILENT = "hung up during the handshake", "did not answer as a WebSocket server", "did not answer within"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
CLOSE: Behaviour = socket.socket.close
ENDS: dict[str, tuple[Behaviour, str]] = {
    "closed at once": (CLOSE, HUNG_UP),
    "reset at once": (reset, HUNG_UP),
    "stopped at once": (then_stops, HUNG_UP),
    "closed when asked": (says(b"", CLOSE), HUNG_UP),
    "reset when asked": (says(b"", reset), HUNG_UP),
    "closed after half an answer": (says(lambda asked: granted(asked)[:50], CLOSE), HUNG_UP),
    "reset after half an answer": (says(lambda asked: granted(asked)[:50], reset), HUNG_UP),
    "silent": (hold, SILENT),
    "slow": (drip, SILENT),
    "half an answer, then silent": (says(lambda asked: granted(asked)[:50]), SILENT),
    "refused before the request, closed": (says_at_once(UNAVAILABLE, CLOSE), "answered HTTP 503"),
    "refused before the request, stopped": (says_at_once(UNAVAILABLE, then_stops), "answered HTTP 503"),
    "refused before the request, open": (says_at_once(UNAVAILABLE), "answered HTTP 503"),
    "garbage before the request, stopped": (says_at_once(b"220 mail ready\r\n", then_stops), NO_WEBSOCKET),
    "garbage before the request, open": (says_at_once(b"220 mail ready\r\n"), NO_WEBSOCKET),
    "garbage": (says(b"\x00\xff" * 100 + b"\r\n"), NO_WEBSOCKET),
    "another protocol": (says(b"SSH-2.0-OpenSSH_9.2\r\n"), NO_WEBSOCKET),
    "another version": (says(b"HTTP/2 200 OK\r\n\r\n"), NO_WEBSOCKET),
    "no status": (says(b"HTTP/1.1 OK\r\n\r\n"), NO_WEBSOCKET),
    "no headers": (says(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), NO_WEBSOCKET),
    "redirect": (says(REDIRECT), "answered HTTP 302"),
    "refused without the length of its body": (says(b"HTTP/1.1 404 Not Found\r\n\r\nno such page", then_stops), "HTTP 404"),
    "refused with bytes that are no UTF-8": (
        says(b"HTTP/1.1 400 \xff\r\nX: \xfe\r\nContent-Length: 2\r\n\r\n\xff\xfe"),
        "HTTP 400",
    ),
    "a header's name that is no ASCII": (says(b"HTTP/1.1 400 Bad\r\nX-\xff: 1\r\n\r\n"), NO_WEBSOCKET),
    "wrong accept key": (says(lambda asked: granted(asked, b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=")), NO_WEBSOCKET),
    "accept key that is no UTF-8": (says(lambda asked: granted(asked, b"\xff\xfe")), NO_WEBSOCKET),
    "two accept keys": (says(with_header(b"Sec-WebSocket-Accept: x")), NO_WEBSOCKET),
    "no accept key": (says(without(b"Sec-")), NO_WEBSOCKET),
    "no Upgrade": (says(without(b"Upgrade")), NO_WEBSOCKET),
    "no Connection": (says(without(b"Connection")), NO_WEBSOCKET),
    "an extension that was not offered": (says(with_header(b"Sec-WebSocket-Extensions: permessage-deflate")), NO_WEBSOCKET),
    "a subprotocol that was not offered": (says(with_header(b"Sec-WebSocket-Protocol: other")), NO_WEBSOCKET),
    "status line too long": (says(b"HTTP/1.1 101 " + b"x" * 20_000), NO_WEBSOCKET),
    "header too long": (says(with_header(b"X: " + b"x" * 20_000)), NO_WEBSOCKET),
    "too many headers": (says(with_header(b"\r\n".join([b"X: x"] * 500))), NO_WEBSOCKET),
    "body too long": (says(b"HTTP/1.1 400 Bad\r\nContent-Length: 99999999999\r\n\r\n"), NO_WEBSOCKET),
    "a length that is no number": (says(b"HTTP/1.1 400 Bad\r\nContent-Length: x\r\n\r\n"), NO_WEBSOCKET),
    "broken chunks": (says(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"), NO_WEBSOCKET),
    "an echo": (says(lambda asked: asked), NO_WEBSOCKET),
}


@both_loops
@pytest.mark.parametrize("end", ENDS)
def test_each_end_of_a_handshake_has_its_reason(end: str, loop: str) -> None:
    behave, reason = ENDS[end]
    with endpoint(behave) as address:
        for _ in range(1 if reason == SILENT else 4):  # which of two things is seen first is left to chance
            error = ended(f"ws://{address}", loop, open_s=SILENT_S if reason == SILENT else OPEN_S)
            assert error is not None
            assert reason in error.what


@both_loops
def test_what_is_granted_is_open_however_it_ends(loop: str) -> None:
    for end in (hold, CLOSE, reset):
        with endpoint(says(granted, end)) as address:
            assert ended(f"ws://{address}", loop) is None


@both_loops
def test_an_answer_that_quotes_the_request_does_not_tell_the_key(loop: str, canary: Callable[[], str]) -> None:
    key = canary()
    quotes = [
        b"Token " + key.encode(),
        b"HTTP/1.1 101 OK\r\nToken " + key.encode(),
        b"HTTP/1.1 400 Bad\r\n\r\nToken " + key.encode(),
    ]
    quotes += [b"HTTP/1.1 101 OK\r\nUpgrade: " + key.encode(), b"HTTP/1.1 401 " + key.encode()]
    for quote in quotes:
        with endpoint(says(quote + b"\r\n\r\n", then_stops)) as address:
            error = ended(f"ws://{address}", loop, key)
            assert error is not None
            assert key not in str(error)


# --- TLS

CA = trustme.CA()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def over_tls(behave: Callable[[ssl.SSLSocket], None], *, demands_certificate: bool = False) -> Behaviour:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    if demands_certificate:
        context.verify_mode = ssl.CERT_REQUIRED

    def secured(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as link:
            behave(link)

    return secured


def breaks_tls(link: ssl.SSLSocket) -> None:
    os.write(link.fileno(), b"no record of TLS")
    hold(link)


TLS_ENDS: dict[str, tuple[Behaviour, tuple[str, ...]]] = {
    "closed at once": (CLOSE, (HUNG_UP,)),
    "reset at once": (reset, (HUNG_UP,)),
    "stopped at once": (then_stops, (HUNG_UP,)),
    "silent": (hold, (SILENT,)),
    "half a record": (says_at_once(b"\x16\x03\x03\x10", CLOSE), (HUNG_UP,)),
    "garbage": (says_at_once(b"220 mail ready\r\n"), ("no TLS there",)),
    "no TLS": (says_at_once(UNAVAILABLE), ("no TLS there",)),
    "an alert": (says_at_once(b"\x15\x03\x03\x00\x02\x02\x28"), ("refused TLS (", "handshake failure")),
    "a client's certificate is missing": (
        over_tls(hold, demands_certificate=True),
        (),
    ),  # an alert, or a reset that overtakes it
    "closed in TLS": (over_tls(CLOSE), (HUNG_UP,)),
    "reset in TLS": (over_tls(reset), (HUNG_UP,)),
    "closed in TLS when asked": (over_tls(says(b"", CLOSE)), (HUNG_UP,)),
    "reset in TLS when asked": (over_tls(says(b"", reset)), (HUNG_UP,)),
    "closed in TLS after half an answer": (over_tls(says(lambda asked: granted(asked)[:50], CLOSE)), (HUNG_UP,)),
    "silent in TLS": (over_tls(hold), (SILENT,)),
    "refused in TLS": (over_tls(says(UNAVAILABLE)), ("answered HTTP 503",)),
    "wrong accept key in TLS": (over_tls(says(lambda asked: granted(asked, b"x"))), (NO_WEBSOCKET,)),
    "TLS that breaks": (over_tls(breaks_tls), ()),
}


@both_loops
@pytest.mark.parametrize("end", TLS_ENDS)
def test_each_end_of_a_handshake_in_tls_has_its_reason(end: str, loop: str) -> None:
    behave, reasons = TLS_ENDS[end]
    with endpoint(behave) as address:
        error = ended(f"wss://{address}", loop, tls=trusting(), open_s=SILENT_S if SILENT in reasons else OPEN_S)
        assert error is not None
        assert all(reason in error.what for reason in reasons)


@both_loops
def test_an_endpoint_with_tls_that_is_asked_without(loop: str) -> None:
    with endpoint(over_tls(hold)) as address:
        error = ended(f"ws://{address}", loop)
        assert error is not None
        assert "wss://" in error.hint


# --- proxies

TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
PROXY_ENDS: dict[str, Behaviour] = {
    "closed at once": CLOSE,
    "reset at once": reset,
    "stopped at once": then_stops,
    "closed when asked": says(b"", CLOSE),
    "closed after half an answer": says(TUNNEL[:20], CLOSE),
    "refused before the request": says_at_once(UNAVAILABLE, CLOSE),
    "garbage": says(b"\x00\xff\r\n\r\n"),
    "silent": hold,
    "the tunnel is closed": says(TUNNEL, CLOSE),
    "the tunnel is reset": says(TUNNEL, reset),
    "the tunnel is silent": says(TUNNEL),
    "the tunnel has garbage": says(TUNNEL + b"220 mail ready\r\n"),
}


@both_loops
@pytest.mark.parametrize("end", PROXY_ENDS)
def test_each_end_of_a_handshake_with_a_proxy_has_a_reason(end: str, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(PROXY_ENDS[end]) as address:
        monkeypatch.setenv("https_proxy", f"http://{address}")
        assert ended("wss://speech.example", loop, open_s=SILENT_S) is not None


# --- anything else


@st.composite
def damaged(draw: st.DrawFn) -> tuple[int, int, bytes]:
    """From where to where in an answer other bytes stand."""
    return draw(st.integers(0, 140)), draw(st.integers(0, 20)), draw(st.binary(max_size=12))


@both_loops
@given(
    damage=st.lists(damaged(), max_size=3),
    cut=st.none() | st.integers(0, 130),
    early=st.booleans(),
    end=st.sampled_from([CLOSE, reset, then_stops]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_opens_or_says_why_not(
    loop: str, damage: list[tuple[int, int, bytes]], cut: int | None, early: bool, end: Behaviour
) -> None:
    def behave(client: socket.socket) -> None:
        answer = granted(b"" if early else request(client))
        for start, length, other in damage:
            answer = answer[:start] + other + answer[start + length :]
        client.sendall(answer[:cut])
        end(client)

    with endpoint(behave) as address:
        error = ended(f"ws://{address}", loop)
        assert error is None or error.hint
        if early or (cut is not None and cut < 100):
            assert error is not None
