"""Who may ask: client keys, hosts, origins, content types, and how much each client may use."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from ..address import is_key, is_loopback, split_host_port
from ..errors import ConfigError
from ..settings.fields import ClientLimits, Key, Server
from ..settings.keys import read_key
from ..speech.dialects.deepgram_server import credential
from .daemon import Problem

__all__ = ["Access", "Client", "Rate"]

KEY_CHARS = 16  # the shortest key: a guess is hopeless, and so a wrong key costs its sender only an answer
FAILURES_PER_MINUTE = 20  # wrong keys from one address, after which the answer is 429
_OPENAI_SUBPROTOCOL = "openai-insecure-api-key."


class Rate:
    """So much a second, and at most `burst` at once."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def left(self, now: float) -> float:
        """How much may be taken now; less than 0 when more was used than there was."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        return self._left

    def take(self, n: float, now: float) -> bool:
        """Take it if it is there."""
        if self.left(now) < n:
            return False
        self._left -= n
        return True

    def use(self, n: float, now: float) -> None:
        """Take it, whether it is there or not."""
        self.left(now)
        self._left -= n


class Client:
    """Who asks, and what is left for them. `name` is that of their key, "local" where none is needed."""

    def __init__(self, name: str, limits: ClientLimits) -> None:
        self.name = name
        self.limits = limits
        self.conversations = 0  # requests and WebSockets in progress
        self._messages = Rate(limits.messages_per_s, max(1.0, limits.messages_per_s))
        hour_s = limits.hour_speech_s
        self._speech = None if hour_s is None else Rate(hour_s / 3600, hour_s)

    @contextmanager
    def conversation(self) -> Iterator[None]:
        """One request or WebSocket. Raises Problem when the client has too many."""
        if self.conversations >= self.limits.conversations:
            raise _too_many(
                f"conversations in progress: {self.limits.conversations}, and no more are allowed: end one, or try again later"
            )
        self.conversations += 1
        try:
            yield
        finally:
            self.conversations -= 1

    def message(self) -> None:
        """Count a request or a WebSocket message. Raises Problem when there are too many a second."""
        if not self._messages.take(1, _now()):
            raise _too_many(f"messages came faster than {self.limits.messages_per_s:g} a second: send them more slowly")

    def check_text(self, text: str) -> None:
        """Raises Problem for an `input` that is too long, and when no speech is left for the client."""
        if len(text) > self.limits.text_chars:
            message = f"input has more than {self.limits.text_chars} characters: send less at once"
            raise Problem(400, message, code="string_above_max_length", param="input")
        self.check_speech()

    def check_speech(self) -> None:
        """Raises Problem when the client has used up its speech."""
        if self.speech_left_s <= 0:
            raise _too_many("the speech of this hour is used up: try again later", code="insufficient_quota")

    @property
    def speech_left_s(self) -> float:
        """Seconds of speech that may still be made now."""
        return float("inf") if self._speech is None else self._speech.left(_now())

    def spoke(self, seconds: float) -> None:
        """Count speech that was handed out."""
        if self._speech is not None:
            self._speech.use(seconds, _now())


def _too_many(message: str, *, code: str = "rate_limit_exceeded") -> Problem:
    return Problem(429, message, code=code, kind="rate_limit_error", headers={"Retry-After": "1"})


class _Known(NamedTuple):
    digest: bytes
    client: Client


class Access:
    """Judges each request by the settings. `previous`: the one before a reload, whose counts go on.

    Raises ConfigError for settings under which strangers could ask.
    """

    def __init__(self, server: Server, previous: Access | None = None) -> None:
        host, _ = split_host_port(server.listen, setting="server.listen")
        _check_names(server)
        self._hosts = frozenset(name.lower() for name in server.hosts)
        self._listens_at = host
        self._origins = frozenset(origin.rstrip("/").lower() for origin in server.origins)
        if not is_loopback(host) and not server.keys and not server.insecure:
            what = f"server.listen {server.listen}: other machines could use it without a key"
            raise ConfigError(what, hint="set [[server.keys]], or server.insecure = true")
        clients = {} if previous is None else {known.client.name: known.client for known in previous.known}
        self.known: list[_Known] = [
            _Known(_digest(_key_of(key)), _client(key.name, _limits(server, key), clients)) for key in server.keys
        ]
        if len({known.client.name for known in self.known}) < len(self.known):
            raise ConfigError("server.keys: two have one name", hint="give each client a name of its own")
        if len({known.digest for known in self.known}) < len(self.known):
            raise ConfigError("server.keys: two have one key", hint="give each client a key of its own: openssl rand -hex 24")
        self._anyone = _client("local", server.limits, {} if previous is None else {"local": previous.anyone})
        self._failures: OrderedDict[str, Rate] = OrderedDict()

    @property
    def anyone(self) -> Client:
        """Who asks where no key is needed."""
        return self._anyone

    @property
    def clients(self) -> list[Client]:
        return [known.client for known in self.known] or [self._anyone]

    @property
    def body_bytes(self) -> int:
        """The largest body that any client may send."""
        return max(client.limits.body_bytes for client in self.clients)

    def check_origin(self, request: web.Request) -> str | None:
        """Where a browser's request comes from: an allowed origin for CORS, None where that is of no concern.

        Raises Problem for a host that is not ours, and for a page that may not ask.
        """
        host = request.headers.get(hdrs.HOST, "")
        if not self._is_ours(host):
            raise Problem(421, "this host is not served here: add its name to server.hosts", code="misdirected_request")
        origin = request.headers.get(hdrs.ORIGIN, "").lower()
        if origin in self._origins:
            return origin
        if request.method not in ("GET", "HEAD") or hdrs.UPGRADE in request.headers:
            foreign = bool(origin) and not _same_origin(origin, host)
            if foreign or request.headers.get("Sec-Fetch-Site") == "cross-site":
                raise Problem(403, "this page may not ask here: add its origin to server.origins", code="origin_not_allowed")
        return None

    def check_type(self, request: web.Request) -> None:
        """Raises Problem for a body of another type than JSON: a page of others can send those without being asked."""
        if request.method == "POST" and request.content_type != "application/json":
            raise Problem(415, "the body has to be application/json: set Content-Type", code="unsupported_media_type")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name) or (name == self._listens_at and name not in ("0.0.0.0", "::"))  # noqa: S104 - compared, not bound

    def client(self, request: web.Request) -> Client:
        """Whose key it carries. Raises Problem when it is none of ours."""
        if not self.known:
            return self._anyone
        presented = _digest(_presented(request))
        found = None
        for known in self.known:  # all of them, so that time tells nothing
            if hmac.compare_digest(known.digest, presented):
                found = known.client
        if found is None:
            raise self._refusal(request.remote or "")
        return found

    def _refusal(self, address: str) -> Problem:
        rate = self._failures.setdefault(address, Rate(FAILURES_PER_MINUTE / 60, FAILURES_PER_MINUTE))
        self._failures.move_to_end(address)
        while len(self._failures) > 10_000:
            self._failures.popitem(last=False)
        if not rate.take(1, _now()):
            return _too_many("too many wrong keys from this address: wait a minute, and look at the key")
        return Problem(
            401,
            "the client key is missing or wrong: send it as Authorization: Bearer",
            code="invalid_api_key",
            kind="authentication_error",
            headers={"WWW-Authenticate": "Bearer"},
        )


def preflight(request: web.Request, origin: str | None) -> web.Response:
    """The answer to a browser that asks whether a page may ask."""
    if origin is None:
        raise Problem(403, "this page may not ask here: add its origin to server.origins", code="origin_not_allowed")
    headers = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "Content-Type"),
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)


_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+")
_ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]+)?/?")


def _check_names(server: Server) -> None:
    """A host or an origin that no request can have is a mistake. Raises ConfigError."""
    for host in server.hosts:
        if not _HOST.fullmatch(host):
            raise ConfigError(f"server.hosts {host!r}: not the name of a host", hint="write it as voice.example.com")
    for origin in server.origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(f"server.origins {origin!r}: not an origin", hint="write it as https://app.example.com")


def _client(name: str, limits: ClientLimits, known: dict[str, Client]) -> Client:
    """The one that is there already, when its limits are the same: its counts go on."""
    client = known.get(name)
    return client if client is not None and client.limits == limits else Client(name, limits)


def _limits(server: Server, key: Key) -> ClientLimits:
    try:
        return msgspec.convert({**msgspec.structs.asdict(server.limits), **key.limits}, ClientLimits, strict=False)
    except msgspec.ValidationError as exc:
        what = str(exc).replace("`", "")
        raise ConfigError(f"server.keys {key.name!r}: {what}", hint="its limits are as in [server.limits]") from None


def _key_of(key: Key) -> str:
    value = read_key(key.key_file) if key.key_file and not key.key else key.key.reveal()
    if value and not is_key(value):
        raise ConfigError(f"server.keys {key.name!r}: the key holds a character that no key has", hint="set it again")
    if len(value) < KEY_CHARS:
        raise ConfigError(
            f"server.keys {key.name!r}: the key has less than {KEY_CHARS} characters", hint="openssl rand -hex 24 makes one"
        )
    return value


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _presented(request: web.Request) -> str:
    """The key that a request carries, in any of the forms in which clients of OpenAI and Deepgram send it."""
    offered = [name.strip() for name in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    for name in offered:
        if name.startswith(_OPENAI_SUBPROTOCOL):
            return name.removeprefix(_OPENAI_SUBPROTOCOL)
    return credential(request.headers.get(hdrs.AUTHORIZATION), offered) or ""


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc == host.lower()
    except ValueError:
        return False


def _now() -> float:
    return asyncio.get_running_loop().time()
