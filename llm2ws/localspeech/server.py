"""The embedded speech endpoint: a WebSocket server with the protocol of Deepgram Speak, version 1, over the embedded engine."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Self, assert_never
from urllib.parse import urlsplit
from weakref import WeakSet

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from ..address import is_key, is_loopback
from ..errors import ConfigError, SpeechError
from ..speech.dialects import deepgram_server as deepgram
from ..speech.dialects.deepgram_server import Meter, Refusal, ServerLimits, SpeakRequest, Violation
from .engine import Engine, UnspeakableText
from .voices import EspeakVoice

__all__ = ["SpeechServer"]

# At DEBUG the library logs headers and messages: keys and text, which belong in no log. At INFO, that a connection opens and
# closes: within a daemon nobody needs that line.
_log = logging.getLogger(f"{__name__}.websocket")
_log.setLevel(logging.WARNING)

_MAX_PENDING_CHARS = 200_000  # flushed and not yet spoken on one connection: hours of speech, so no honest use
_CLOSE_S = 1.0  # how long a peer may take to answer a close frame
_FOREIGN_ORIGIN = Refusal(403, "INSUFFICIENT_PERMISSIONS", "Pages of other sites may not use an endpoint without a key.")


class SpeechServer:
    """A server of `engine` at `url`, with Deepgram's protocol, until the `async with` block is left.

    `key`: what clients must present; None admits every program of this machine, and no other: another `host` without a
    key raises ConfigError unless `insecure`. `port` 0 takes a free port. `limits` are off by default.
    `first_byte_s` (from a Flush to its first audio), `pace` (a multiple of real time, None: as fast as possible) and `frame_ms`
    (of audio in a message, 20 to 100) make the endpoint behave like a slower one. A client that takes nothing for `stall_s`
    seconds is disconnected. Connections beyond `max_connections` are refused with 429. Raises ConfigError when the server
    cannot listen.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str | None = None,
        insecure: bool = False,
        limits: ServerLimits | None = None,
        max_connections: int | None = None,
        first_byte_s: float = 0.0,
        pace: float | None = None,
        frame_ms: int = 40,
        stall_s: float = 60.0,
    ) -> None:
        if key is not None and not is_key(key):
            raise ConfigError("the speech endpoint's key is empty, or not plain ASCII without blanks", hint="give another")
        if key is None and not insecure and not is_loopback(host):
            raise ConfigError(
                f"the speech endpoint would serve anyone who reaches {host}:{port}",
                hint="set a key, listen on 127.0.0.1, or say that this is wanted with insecure",
            )
        if not 20 <= frame_ms <= 100:
            raise ConfigError(f"frame_ms {frame_ms}", hint="give 20 to 100")
        if pace is not None and not pace > 0:
            raise ConfigError(f"pace {pace}", hint="give a multiple of real time, or none")
        self.engine = engine
        self.limits = limits or ServerLimits()
        self.first_byte_s = first_byte_s
        self.pace = pace
        self.frame_s = frame_ms / 1000
        self.stall_s = stall_s
        self._host, self._port = host, port
        self._key = key
        self._max_connections = max_connections
        self._connections: WeakSet[ServerConnection] = WeakSet()  # also those still in their handshake
        self._sessions: set[_Session] = set()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        try:
            self._server = await serve(
                self._handle,
                self._host,
                self._port,
                compression=None,  # audio does not compress
                # Longer messages are refused by the library, with the same code but its own reason.
                max_size=2 * deepgram.MAX_MESSAGE_BYTES,
                create_connection=self._connection,  # type: ignore[arg-type]  # any factory does
                process_request=self._refuse,
                process_response=_add_request_id,
                select_subprotocol=_select_subprotocol,
                # A player that holds back by not reading answers no ping either: pings find lost peers by TCP alone.
                ping_timeout=None,
                close_timeout=_CLOSE_S,
                logger=_log,
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port} ({getattr(error, 'strerror', None) or error})",
                hint="stop the program that listens there, or choose another address or port",
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that the server listens on."""
        assert self._server is not None, "not started"
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """The URL that a client connects to."""
        host, port = self.address
        return f"ws://[{host}]:{port}{deepgram.PATH}" if ":" in host else f"ws://{host}:{port}{deepgram.PATH}"

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Take no more connections, speak what was flushed within `grace_s` seconds, then close all connections with 1001."""
        if self._server is None:
            return
        self._server.close(close_connections=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s), asyncio.TaskGroup() as group:
                for session in self._sessions:
                    group.create_task(session.finish())
        async with asyncio.TaskGroup() as group:
            for ws in list(self._connections):
                if ws.state is State.OPEN:
                    group.create_task(_close(ws, _GOING_AWAY))
                elif ws.state is State.CONNECTING and hasattr(ws, "transport"):  # it may never send its request
                    ws.transport.abort()
        await self._server.wait_closed()

    def _connection(self, *args: object, **options: object) -> ServerConnection:
        ws = ServerConnection(*args, **options)  # type: ignore[arg-type]
        self._connections.add(ws)
        return ws

    def _admit(self, request: Request) -> tuple[SpeakRequest, EspeakVoice] | Refusal:
        """Return the client's request and the voice that speaks it, or the refusal of the handshake."""
        subprotocols = _subprotocols(request)
        if self._key is not None:
            given = deepgram.credential(_header(request, "Authorization"), subprotocols)
            if given is None or not hmac.compare_digest(given.encode(errors="surrogateescape"), self._key.encode()):
                return deepgram.INVALID_AUTH
        elif (origin := _header(request, "Origin")) and not _is_local_page(origin):
            return _FOREIGN_ORIGIN
        wanted = deepgram.parse_query(request.path.partition("?")[2])
        if isinstance(wanted, Refusal):
            return wanted
        voice = self.engine.voice(wanted.model)
        return (wanted, voice) if voice else deepgram.NO_SUCH_MODEL

    def _refuse(self, ws: ServerConnection, request: Request) -> Response | None:
        if request.path.partition("?")[0] != deepgram.PATH:
            return ws.respond(HTTPStatus.NOT_FOUND, f"There is only {deepgram.PATH} here.\n")
        admitted = self._admit(request)
        if not isinstance(admitted, Refusal):
            if self.engine.down_s is not None:
                admitted = deepgram.UNAVAILABLE
            elif self._max_connections is not None and len(self._sessions) >= self._max_connections:
                admitted = deepgram.CONCURRENCY_EXCEEDED
            else:
                return None
        request_id = str(ws.id)
        response = ws.respond(HTTPStatus(admitted.status), admitted.body(request_id))
        for name, value in admitted.headers(request_id).items():
            response.headers.pop(name, None)
            response.headers[name] = value
        return response

    async def _handle(self, ws: ServerConnection) -> None:
        assert ws.request is not None
        admitted = self._admit(ws.request)
        assert not isinstance(admitted, Refusal)  # or the handshake would have failed
        session = _Session(self, ws, *admitted)
        self._sessions.add(session)
        try:
            await _close(ws, await session.run())
        finally:
            self._sessions.discard(session)


class _CloseConnection(Exception):
    """Raised to close a connection with a code and a reason."""

    def __init__(self, close: Violation) -> None:
        super().__init__(close)
        self.close = close


_NORMAL = Violation(1000, "")
_GOING_AWAY = Violation(1001, "")
_UNSPEAKABLE = Violation(1008, "the speech engine died of this text")  # So that it is not sent again, to die again.


class _Session:
    """One connection: a task that reads messages, and one that speaks the flushed groups one after the other."""

    def __init__(self, server: SpeechServer, ws: ServerConnection, request: SpeakRequest, voice: EspeakVoice) -> None:
        self._server = server
        self._ws = ws
        self._request = request
        self._voice = voice
        self._meter = Meter(server.limits)
        self._now = asyncio.get_running_loop().time
        self._text: list[str] = []  # texts that were not flushed yet
        self._groups: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()  # flushed texts, and when; None: close
        self._pending_chars = 0
        self._n_flushed = self._n_cleared = 0
        self._due = 0.0  # when the next frame may be sent
        self._speaker: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the task that speaks, once it runs

    async def run(self) -> Violation:
        """Serve the connection. Return how to close it, which the client may have done already."""
        close = _NORMAL
        try:
            async with asyncio.TaskGroup() as group, _time_limit(self._server.limits.session_s):
                await self._send(self._metadata())
                self._speaker = group.create_task(self._speak())
                if await self._read(group):
                    await asyncio.wait([self._speaker])
                self._speaker.cancel()
        except* ConnectionClosed:
            pass
        except* UnspeakableText:
            close = _UNSPEAKABLE
        except* SpeechError:
            close = deepgram.INTERNAL_ERROR
        except* _CloseConnection as group_of_errors:
            close = next(error.close for error in group_of_errors.exceptions if isinstance(error, _CloseConnection))
        finally:
            self._drop_groups()
        return close

    async def finish(self) -> None:
        """Wait until all that was flushed has been spoken."""
        await self._groups.join()

    async def _read(self, group: asyncio.TaskGroup) -> bool:
        """Handle the client's messages. Return whether the client asked to be closed; else its connection ended."""
        async for message in self._ws:
            match deepgram.decode(message):
                case deepgram.SpeakIn(text=text):
                    self._pending_chars += len(text)
                    if not self._meter.speak(len(text), now=self._now()) or self._pending_chars > _MAX_PENDING_CHARS:
                        raise _CloseConnection(deepgram.TOO_MANY_CHARS)
                    self._text.append(text)
                case deepgram.FlushIn():
                    if self._meter.flush(now=self._now()):
                        self._flush()
                    else:
                        await self._send(deepgram.EXCESSIVE_FLUSH)
                case deepgram.ClearIn():
                    self._clear(group)
                    await self._send(deepgram.cleared(self._n_cleared))
                    self._n_cleared += 1
                case deepgram.CloseIn():
                    if self._text:
                        self._flush()
                    self._groups.put_nowait(None)
                    return True
                case Violation() as violation:
                    raise _CloseConnection(violation)
                case other:
                    assert_never(other)
        return False

    def _flush(self) -> None:
        self._pending_chars += 1  # else Flushes of nothing would queue without bound
        self._groups.put_nowait(("".join(self._text), self._now()))
        self._text.clear()

    def _clear(self, group: asyncio.TaskGroup) -> None:
        """Drop all text. No frame follows: a cancelled task does not run on to its next one."""
        self._speaker.cancel()
        self._drop_groups()
        self._text.clear()
        self._pending_chars = 0
        self._due = 0.0
        self._speaker = group.create_task(self._speak())

    def _drop_groups(self) -> None:
        while not self._groups.empty():
            self._groups.get_nowait()
            self._groups.task_done()

    async def _speak(self) -> None:
        while (job := await self._groups.get()) is not None:
            text, flushed_at = job
            try:
                await self._say(text, flushed_at)
                self._pending_chars -= len(text) + 1
                await self._send(deepgram.flushed(self._n_flushed))
                self._n_flushed += 1
            finally:
                self._groups.task_done()

    async def _say(self, text: str, flushed_at: float) -> None:
        fmt = self._request.format
        frame_bytes = fmt.bytes_for(self._server.frame_s)
        self._due = max(self._due, self._now(), flushed_at + self._server.first_byte_s)
        with self._server.engine.say(text, voice=self._voice, fmt=fmt, speed=self._request.speed) as utterance:
            rest = b""
            async for chunk in utterance:
                rest += chunk
                whole = len(rest) - len(rest) % frame_bytes
                for start in range(0, whole, frame_bytes):
                    await self._send_frame(rest[start : start + frame_bytes])
                rest = rest[whole:]
            if rest:
                await self._send_frame(rest)

    async def _send_frame(self, frame: bytes) -> None:
        if (wait_s := self._due - self._now()) > 0:
            await asyncio.sleep(wait_s)
        if self._server.pace:
            self._due += self._request.format.seconds(len(frame)) / self._server.pace
        await self._send(frame)

    async def _send(self, message: str | bytes) -> None:
        try:
            async with asyncio.timeout(self._server.stall_s):
                await self._ws.send(message)
        except TimeoutError:
            raise _CloseConnection(deepgram.SEND_FAILED) from None

    def _metadata(self) -> str:
        model = self._request.model
        return deepgram.metadata(
            request_id=str(self._ws.id),
            model=model,
            version=self._server.engine.version,
            model_uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"espeak-ng:{self._voice.name}:{self._voice.pitch}")),
        )


@contextlib.asynccontextmanager
async def _time_limit(seconds: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise _CloseConnection(deepgram.SESSION_TOO_LONG) from None


async def _close(ws: ServerConnection, how: Violation) -> None:
    """Close in bounded time: to a client that does not read, the close frame would wait for ever."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await ws.close(how.code, how.reason)
    except TimeoutError:
        ws.transport.abort()


def _is_local_page(origin: str) -> bool:
    try:
        return is_loopback(urlsplit(origin).hostname)
    except ValueError:
        return False


def _header(request: Request, name: str) -> str:
    """Return a header's value, "" when there is none. A header that is sent twice gives both, which match no key or origin."""
    return ", ".join(request.headers.get_all(name))


def _subprotocols(request: Request) -> list[str]:
    headers = request.headers.get_all("Sec-WebSocket-Protocol")
    return [name.strip() for header in headers for name in header.split(",")]


def _select_subprotocol(ws: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    chosen = deepgram.chosen_subprotocol(offered)
    return None if chosen is None else Subprotocol(chosen)


def _add_request_id(ws: ServerConnection, request: Request, response: Response) -> None:
    if "dg-request-id" not in response.headers:
        response.headers["dg-request-id"] = str(ws.id)
