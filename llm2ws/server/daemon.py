"""What a request can reach: the daemon, who asks, and the form in which errors leave."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from ..errors import ConfigError, ConnectFailed, Llm2wsError, SlowConsumerError, SourceError, SpeechError, UnknownName

if TYPE_CHECKING:
    import ssl

    from ..service import Service
    from ..settings.fields import Settings
    from ..watch.metrics import Metrics
    from .access import Access, Client
    from .health import Readiness

__all__ = [
    "CLIENT",
    "DAEMON",
    "REQUEST_ID",
    "SERVICE",
    "Daemon",
    "Face",
    "Problem",
    "decoded",
    "deepgram_error",
    "drained",
    "event",
    "json_text",
    "openai_error",
    "problem_of",
    "read_body",
    "read_json",
    "told",
]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

BODY_S = 30.0  # for a request's body to come


class Problem(Exception):
    """A request that is refused. `message` says what to do, `code` and `kind` are the vendor's words for it.

    `param`: the field that is wrong, None where it is not one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = dict(headers or {})

    @property
    def error(self) -> dict[str, object]:
        """As OpenAI's API says it."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


def drained() -> Problem:
    """For who comes, or is still there, when the daemon stops."""
    what = "the daemon stops: ask another one, or later"
    return Problem(503, what, code="draining", kind="server_error", headers={"Retry-After": "1"})


def openai_error(problem: Problem, request_id: str) -> web.Response:
    """The form of OpenAI's API, of which its SDK makes typed errors."""
    return web.json_response({"error": problem.error}, status=problem.status, headers=problem.headers)


def deepgram_error(problem: Problem, request_id: str) -> web.Response:
    """The form of Deepgram's API, also for a refused WebSocket handshake."""
    said = {"err_code": problem.code or problem.kind.upper(), "err_msg": problem.message, "request_id": request_id}
    headers = {**problem.headers, "dg-request-id": request_id, "dg-error": problem.message.replace("\n", " ")}
    return web.json_response(said, status=problem.status, headers=headers)


class Face(NamedTuple):
    """One protocol: its routes, the form of its errors, and whether it is served without a client key.

    `bodies`: the type of what is read from a POST, by path, for the OpenAPI document.
    """

    routes: Sequence[web.RouteDef]
    error: Callable[[Problem, str], web.Response] = openai_error
    public: bool = False
    bodies: Mapping[str, object] = {}


class Daemon:
    """What all requests share. `service`, `access` and `settings` are exchanged when settings are reloaded."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        access: Access,
        metrics: Metrics,
        readiness: Readiness,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings
        self.service = service
        self.access = access
        self.metrics = metrics
        self.readiness = readiness
        self.tls = tls
        self.url = ""  # where it listens
        self.draining = asyncio.Event()  # no new conversation is taken; faces close what is idle
        self.deadline = asyncio.Event()  # what still runs is told, and ends
        self.turns: set[Callable[[], Awaitable[None]]] = set()  # each ends an answer that is in progress
        self._using: Counter[Service] = Counter()
        self._left = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()  # services that were replaced, and are in use for the last time
        metrics.gauge("conversations", "Requests and WebSockets in progress", lambda: self.running)
        metrics.gauge("answers_running", "Answers in progress", lambda: len(self.turns))
        metrics.gauge("tasks", "Tasks of the event loop; more and more without more conversations is a leak", _count_tasks)
        metrics.gauge("speech_connections", "Open connections to speech endpoints", self._connections)
        self._measure_pings()

    def _connections(self) -> float:
        return sum(self.service.pool.connections(name) for name in self.service.speech)

    def _measure_pings(self) -> None:
        for name in self.service.speech:
            self.metrics.ping(name, partial(self._ping_s, name))

    def _ping_s(self, name: str) -> float:
        return self.service.pool.ping_s(name)

    def exchange(self, settings: Settings, service: Service, access: Access) -> None:
        """From now on these. What was there before is closed when its last request has ended."""
        task = asyncio.create_task(self._close_unused(self.service))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self.settings, self.service, self.access = settings, service, access
        self._measure_pings()

    async def _close_unused(self, service: Service) -> None:
        try:
            await self.until_unused(service)
        finally:
            await service.__aexit__(None, None, None)

    async def close(self) -> None:
        """Close all services. No request is left."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.service.__aexit__(None, None, None)

    def enter(self) -> Service:
        """A request begins: the service that it uses to its end."""
        self._using[self.service] += 1
        return self.service

    def leave(self, service: Service) -> None:
        """A request that used it has ended."""
        self._using[service] -= 1
        if not self._using[service]:
            del self._using[service]
        self._left.set()

    @property
    def running(self) -> int:
        """Requests and WebSockets in progress."""
        return self._using.total()

    async def until_unused(self, service: Service | None = None) -> None:
        """Wait until no request uses it, or until none is left at all."""
        while self._using[service] if service is not None else self._using:
            self._left.clear()
            await self._left.wait()


def _count_tasks() -> int:
    return len(asyncio.all_tasks())


DAEMON = web.AppKey("daemon", Daemon)
SERVICE: web.RequestKey[Service] = web.RequestKey("service", object)  # type: ignore[arg-type]  # the class would be imported
CLIENT: web.RequestKey[Client] = web.RequestKey("client", object)  # type: ignore[arg-type]  # the same
REQUEST_ID = web.RequestKey("request_id", str)


async def read_json(request: web.Request, kind: type[_T]) -> _T:
    """The body as `kind`, strictly. Raises Problem, naming the field that is wrong."""
    return decoded(await read_body(request), kind)


async def read_body(request: web.Request) -> bytes:
    """The body, within the client's limit. Raises Problem."""
    limit = request[CLIENT].limits.body_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_S:g} s: send it faster", code="request_timeout") from None
    except web.RequestPayloadError:
        raise Problem(400, "the body breaks off, or is not encoded as it says: send it again", code="invalid_body") from None
    return bytes(body)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit} bytes: send less", code="request_too_large")


def decoded(body: bytes | str, kind: type[_T]) -> _T:
    """JSON as `kind`, strictly. Raises Problem, naming the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        what, _, path = str(exc).partition(" - at `$")
        param = path.strip("`.") or None
        # What the client wrote is not repeated.
        message = what.partition(" '")[0].replace("`", "")
        raise Problem(400, f"{param or 'body'}: {message}", param=param, code="invalid_value") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "the body is no JSON: send one JSON object in UTF-8", code="invalid_json") from None


# What a client is told of an LLM's server that refuses the request itself. By HTTP status.
_REFUSED = {
    400: "the LLM's server refused the request: shorten it, or change its parameters",
    404: "the LLM's server has not what was asked for: choose another model",
    409: "the LLM's server is busy with something that conflicts: try again",
    413: "the conversation is longer than the LLM's server takes: shorten it",
    422: "the LLM's server refused the request: shorten it, or change its parameters",
}


def problem_of(exc: Llm2wsError | web.HTTPException) -> Problem:
    """What a client is told of an error of ours, or of aiohttp's. What it is not told is logged."""
    if not isinstance(exc, ConfigError | web.HTTPException):
        _log.warning("%s", exc)
    return told(exc)


def told(exc: Llm2wsError | web.HTTPException) -> Problem:
    """What a client may know of it, for all faces alike: of what is behind the daemon no address, key or setting."""
    match exc:
        case web.HTTPException():
            allow = {name: value for name, value in exc.headers.items() if name in ("Allow", "Location")}
            return Problem(exc.status, f"{exc.reason}: look at the address and the method", headers=allow)
        case UnknownName():
            return Problem(404, str(exc), code="model_not_found", param="model")
        case ConfigError():
            return Problem(400, str(exc), code="invalid_value")
        case SourceError(status=int(status)) if status in _REFUSED:
            return Problem(status, _REFUSED[status])
        case ConnectFailed(status=400):
            what = "the speech endpoint refused it: ask for another voice, format or speed"
            return Problem(400, what, code="invalid_value")
        case SourceError(status=429):
            return _busy("the LLM's server")
        case ConnectFailed(status=429):
            return _busy("the speech endpoint")
        case SourceError(retry=again):
            return _upstream("the LLM", again=again)
        case ConnectFailed(retry_s=None):
            return _upstream("the speech endpoint", again=False)
        case SpeechError():
            return _upstream("the speech endpoint", again=True)
        case SlowConsumerError():
            return Problem(408, str(exc), code="request_timeout")
        case _:
            return Problem(500, "a bug of llm2ws: its log says more", code="internal_error", kind="server_error")


def _busy(what: str) -> Problem:
    message = f"{what} takes no more now: try again later"
    return Problem(429, message, code="rate_limit_exceeded", kind="rate_limit_error", headers={"Retry-After": "1"})


def _upstream(what: str, *, again: bool) -> Problem:
    said = "failed: try again" if again else "cannot be used: its operator has to look into the daemon's log"
    return Problem(502, f"{what} {said}", code="upstream_error", kind="server_error")


def event(data: object, name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return b"".join((head, b"data: ", msgspec.json.encode(data), b"\n\n"))


def json_text(data: object) -> str:
    """For a WebSocket message."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
