"""Which requests are served: client keys, hosts, origins, content types, and how much each client may use."""

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
from .problems import Problem

__all__ = ["Access", "ApiClient", "TokenBucket"]

KEY_CHARS = 16  # The shortest key. Guessing it is hopeless, so wrong keys need not be slowed down.
FAILURES_PER_MINUTE = 20  # Wrong keys from one address, after which the answer is 429.
_OPENAI_SUBPROTOCOL = "openai-insecure-api-key."


class TokenBucket:
    """A token bucket: `per_s` units become available each second, and at most `burst` are kept."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def left(self, now: float) -> float:
        """Return how much may be used now; less than 0 when more was used than there was."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        return self._left

    def take(self, n: float, now: float) -> bool:
        """Use `n` and return True when so much is left; otherwise use nothing."""
        if self.left(now) < n:
            return False
        self._left -= n
        return True

    def use(self, n: float, now: float) -> None:
        """Use `n`, even when less is left."""
        self.left(now)
        self._left -= n


class ApiClient:
    """A client of the daemon and what it has used of its limits.

    `name` is the name of its key in the settings, or "local" where no key is needed.
    """

    def __init__(self, name: str, limits: ClientLimits) -> None:
        self.name = name
        self.limits = limits
        self.conversations = 0  # Requests and WebSockets in progress.
        self._messages = TokenBucket(limits.messages_per_s, max(1.0, limits.messages_per_s))
        hour_s = limits.hour_speech_s
        self._speech = None if hour_s is None else TokenBucket(hour_s / 3600, hour_s)

    @contextmanager
    def conversation(self) -> Iterator[None]:
        """Count a request or WebSocket within the block. Raises Problem when the client has too many."""
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
        """Raise Problem for an `input` that is too long, or when the client has used up its speech."""
        if len(text) > self.limits.text_chars:
            message = f"input has more than {self.limits.text_chars} characters: send less at once"
            raise Problem(400, message, code="string_above_max_length", param="input")
        self.check_speech()

    def check_speech(self) -> None:
        """Raise Problem when the client has used up its speech."""
        if self.speech_left_s <= 0:
            raise _too_many("the speech of this hour is used up: try again later", code="insufficient_quota")

    @property
    def speech_left_s(self) -> float:
        """Seconds of speech that may still be made now."""
        return float("inf") if self._speech is None else self._speech.left(_now())

    def spoke(self, seconds: float) -> None:
        """Count speech that was sent to the client."""
        if self._speech is not None:
            self._speech.use(seconds, _now())


def _too_many(message: str, *, code: str = "rate_limit_exceeded") -> Problem:
    return Problem(429, message, code=code, kind="rate_limit_error", headers={"Retry-After": "1"})


class _ClientKey(NamedTuple):
    digest: bytes  # SHA-256 of the key.
    client: ApiClient


class Access:
    """What the settings allow each request.

    `previous`: the Access of before a reload, whose clients keep their counts. Raises ConfigError for settings under which
    other machines could use the daemon without a key.
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
        clients = {} if previous is None else {key.client.name: key.client for key in previous.keys}
        self.keys: list[_ClientKey] = [
            _ClientKey(_digest(_key_of(key)), _client(key.name, _limits(server, key), clients)) for key in server.keys
        ]
        if len({key.client.name for key in self.keys}) < len(self.keys):
            raise ConfigError("server.keys: two have one name", hint="give each client a name of its own")
        if len({key.digest for key in self.keys}) < len(self.keys):
            raise ConfigError("server.keys: two have one key", hint="give each client a key of its own: openssl rand -hex 24")
        clients = {} if previous is None else {"local": previous.keyless_client}
        self.keyless_client: ApiClient = _client("local", server.limits, clients)  # Who asks where no key is needed.
        self._failures: OrderedDict[str, TokenBucket] = OrderedDict()

    @property
    def body_bytes(self) -> int:
        """The size of the largest body that any client may send."""
        clients = [key.client for key in self.keys] or [self.keyless_client]
        return max(client.limits.body_bytes for client in clients)

    def check_origin(self, request: web.Request) -> str | None:
        """Return the allowed origin of a browser's request, for CORS; None where it has none or needs no permission.

        Raises Problem for a host that is not served, and for a page whose requests are not allowed.
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
        """Raise Problem for a POST that is not JSON: browsers let any page send other types without a preflight."""
        if request.method == "POST" and request.content_type != "application/json":
            raise Problem(415, "the body has to be application/json: set Content-Type", code="unsupported_media_type")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name) or (name == self._listens_at and name not in ("0.0.0.0", "::"))  # noqa: S104 - compared, not bound

    def client(self, request: web.Request) -> ApiClient:
        """Return the client whose key a request carries. Raises Problem when the key is missing or wrong."""
        if not self.keys:
            return self.keyless_client
        presented = _digest(_presented(request))
        found = None
        for key in self.keys:  # All of them, so that the time it takes reveals nothing.
            if hmac.compare_digest(key.digest, presented):
                found = key.client
        if found is None:
            raise self._refusal(request.remote or "")
        return found

    def _refusal(self, address: str) -> Problem:
        rate = self._failures.setdefault(address, TokenBucket(FAILURES_PER_MINUTE / 60, FAILURES_PER_MINUTE))
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
    """Return the response to a browser's preflight request. Raises Problem for a page whose requests are not allowed."""
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
    """Raise ConfigError for a host or an origin that no request can have."""
    for host in server.hosts:
        if not _HOST.fullmatch(host):
            raise ConfigError(f"server.hosts {host!r}: not the name of a host", hint="write it as voice.example.com")
    for origin in server.origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(f"server.origins {origin!r}: not an origin", hint="write it as https://app.example.com")


def _client(name: str, limits: ClientLimits, existing: dict[str, ApiClient]) -> ApiClient:
    """Return the existing client of that name when its limits are the same, so that its counts go on, or a new one."""
    client = existing.get(name)
    return client if client is not None and client.limits == limits else ApiClient(name, limits)


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
    """Return the key that a request carries, in any of the forms in which clients of OpenAI and Deepgram send it."""
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
