"""Which model is asked, where, and with whose key. What both kinds of API share before a request is sent."""

from __future__ import annotations

import difflib
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypedDict
from urllib.parse import SplitResult, urlsplit

from ..address import is_key, is_loopback, may_carry_key
from ..errors import ConfigError
from .prompt import check_template

if TYPE_CHECKING:
    import aiohttp
    import httpx2

__all__ = ["Endpoint", "ModelOptions", "ModelSettings", "Vendor", "http_client", "http_session", "resolve", "settings_from"]

CONNECT_S = 10.0
IDLE_S = 30.0  # how long a connection is kept for the next answer


class ModelOptions(TypedDict, total=False):
    """The fields of `ModelSettings`, as keyword arguments."""

    model: str | None
    base_url: str | None
    api_key: str | None
    system: str | None
    template: str | None
    temperature: float | None
    max_tokens: int | None
    stop: Sequence[str]
    extra: Mapping[str, object]
    ca_file: str | None
    first_token_s: float
    stall_s: float
    max_retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How a model is asked. Of optional settings, None leaves it to the server."""

    model: str | None = None  # None: a small one of the vendor's own; any other server has to be told
    base_url: str | None = None  # None: the vendor's variable of the environment (OPENAI_BASE_URL), else the vendor's own
    api_key: str | None = field(default=None, repr=False)  # None: the vendor's variable, but not for a `base_url` given here
    system: str | None = None  # the system prompt
    template: str | None = None  # a text with {prompt}, and perhaps {system}, that becomes the user's message
    temperature: float | None = None
    max_tokens: int | None = None  # of the answer
    stop: Sequence[str] = ()  # words at which the model stops
    extra: Mapping[str, object] = field(default_factory=dict)  # more fields of the request; they win over those made here
    ca_file: str | None = None  # a PEM file with a private certificate authority
    first_token_s: float = 120.0  # from the request to the first event: a local model may have to be loaded
    stall_s: float = 30.0  # silence within an answer after which the model counts as dead
    max_retries: int = 2  # of a request that got no answer, before the first token and never after it

    @property
    def stop_words(self) -> list[str]:
        """`stop` as a list, though it was given as one word."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def given(self) -> dict[str, object]:
        """What a request has to say besides the question: settings that are set, by their names."""
        # A template has the system prompt in the question.
        system = None if self.template and "{system}" in self.template else self.system
        named = {
            "max_tokens": self.max_tokens,
            "stop": self.stop_words or None,
            "system": system,
            "temperature": self.temperature,
        }
        return {name: value for name, value in named.items() if value is not None}


def settings_from(function: str, options: ModelOptions) -> ModelSettings:
    """Return the settings in the keyword arguments of a function. Raises ConfigError for one that it does not have."""
    known = ModelOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"give {', '.join(known)}"
            raise ConfigError(f"{function}(): {name}: no such argument", hint=hint)
    return ModelSettings(**options)


class Vendor(NamedTuple):
    """Who made the API, and what stands for its settings when they are not given."""

    name: str
    url: str
    url_variable: str
    key_variable: str
    model: str
    service: bool = True  # at `url` is a service that wants a key; else it is an example for messages


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model on one server, with what is known to be right about it."""

    vendor: Vendor
    url: str
    host: str  # with the port when it is given: for messages
    model: str
    key: str = field(repr=False)  # "" when there is none
    loopback: bool
    tls: ssl.SSLContext | None = None  # None: the authorities that the machine trusts

    @property
    def who(self) -> str:
        """For messages."""
        return f"{self.model} at {self.host}" if self.model else self.host


def resolve(settings: ModelSettings, vendor: Vendor) -> Endpoint:
    """Where to ask, with the environment taken in.

    Raises ConfigError for an address that is none, a missing model or key, and a key that would be sent in clear text to
    another machine. A `base_url` that is given here gets no key from the environment: that one was meant for someone else.
    """
    if settings.template is not None:
        check_template(settings.template)
    url = (settings.base_url or os.environ.get(vendor.url_variable) or vendor.url).strip().rstrip("/")
    key = settings.api_key
    if key is None:
        key = "" if settings.base_url else os.environ.get(vendor.key_variable, "")
    key = key.strip()
    if key and not is_key(key):
        raise ConfigError(
            f"the key for {vendor.name} holds a character that no key has", hint=f"set {vendor.key_variable} again"
        )
    parts = _split(url)
    host = parts.hostname
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError("base_url is no http:// or https:// URL", hint=f"such as {vendor.url}")
    # Of a vendor's API it is the beginning, of other servers all of the address.
    query = parts.query if vendor.service else ""
    if parts.username is not None or query or parts.fragment:
        raise ConfigError(
            f"base_url for {host} holds a name, password or query", hint="give the key as api_key, and only there"
        )
    if key and not may_carry_key(parts.scheme, host):
        raise ConfigError(f"a key would be sent to {host} in clear text", hint="use https://, or leave the key out")
    is_vendor = vendor.service and host == urlsplit(vendor.url).hostname
    if is_vendor and not key:
        raise ConfigError(f"no key for {vendor.name}", hint=f"set {vendor.key_variable}")
    model = settings.model or (vendor.model if is_vendor else "")
    if not model and vendor.service:
        raise ConfigError(f"no model is set for {host}", hint="set model to the name of one that it has")
    try:
        tls = None if settings.ca_file is None else ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:
        why = exc.strerror or "no certificates in PEM"
        raise ConfigError(
            f"ca_file {settings.ca_file}: {why}", hint="give a PEM file with the authority's certificate"
        ) from exc
    return Endpoint(vendor, url, host if parts.port is None else f"{host}:{parts.port}", model, key, is_loopback(host), tls)


def http_client(kind: type[httpx2.AsyncClient], endpoint: Endpoint) -> httpx2.AsyncClient:
    """The HTTP client for an SDK. `kind`: the SDK's own on aiohttp, which at a token's pace costs a third of the usual one.

    Reads have no limit here; `answer.py` limits them. Redirects are not followed, because they would carry the key along.
    Proxies of the environment are used, but never for this machine. Blocks while it reads certificates.
    """
    import httpx2

    return kind(
        # Reading the authorities takes 20 ms, for nothing where no TLS is spoken.
        verify=endpoint.tls or not (endpoint.loopback and endpoint.url.startswith("http:")),
        timeout=httpx2.Timeout(None, connect=CONNECT_S),
        limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=IDLE_S),
        follow_redirects=False,
        mounts=dict.fromkeys(("all://", "http://", "https://")) if endpoint.loopback else None,
    )


def http_session(endpoint: Endpoint, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """The same without an SDK: at a token's pace it costs two thirds of what the SDKs' raw responses cost."""
    import aiohttp

    return aiohttp.ClientSession(
        # Compressors hold tokens back.
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **headers},
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, ssl=endpoint.tls or True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        trust_env=not endpoint.loopback,  # the proxies of the environment
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _split(url: str) -> SplitResult:
    """Of no address, the parts are empty."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # brackets without an end, a port that is no number
        return urlsplit("")
    return parts
