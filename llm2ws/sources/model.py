"""Which model is asked, on which server, with which key; and the HTTP clients that send the requests."""

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

__all__ = [
    "LlmEndpoint",
    "ModelOptions",
    "ModelSettings",
    "Vendor",
    "endpoint_of",
    "http_client",
    "http_session",
    "resolve",
    "settings_from",
]

CONNECT_S = 10.0
IDLE_S = 30.0  # How long a connection is kept for the next answer.


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
    """How a model is asked. None leaves a setting to the server, unless it says otherwise here."""

    model: str | None = None  # None: a small one of the vendor's own; other servers need a name
    base_url: str | None = None  # None: the vendor's variable of the environment (OPENAI_BASE_URL), else the vendor's own
    api_key: str | None = field(default=None, repr=False)  # None: the vendor's variable, but not for a `base_url` given here
    system: str | None = None  # the system prompt
    template: str | None = None  # a text with {prompt}, and perhaps {system}, that becomes the user's message
    temperature: float | None = None
    max_tokens: int | None = None  # of the answer
    stop: Sequence[str] = ()  # words at which the model stops
    extra: Mapping[str, object] = field(default_factory=dict)  # more fields of the request; they win over those made here
    ca_file: str | None = None  # a PEM file with a private certificate authority
    first_token_s: float = 120.0  # seconds from the request to the first event: a local model may have to be loaded
    stall_s: float = 30.0  # seconds of silence within an answer after which the model counts as dead
    max_retries: int = 2  # of a request that got no answer, before the first token and never after it

    @property
    def stop_words(self) -> list[str]:
        """`stop` as a list, also if it was given as one word."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def given(self) -> dict[str, object]:
        """The settings that a request states besides the question, by their names. Those that are None are left out."""
        # With {system} in the template, the system prompt is part of the question.
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
    names = ModelOptions.__annotations__
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"give {', '.join(names)}"
            raise ConfigError(f"{function}(): {name}: no such argument", hint=hint)
    return ModelSettings(**options)


class Vendor(NamedTuple):
    """The vendor of an API, and what its settings are if they are not given."""

    name: str
    url: str
    url_variable: str
    key_variable: str
    model: str
    service: bool = True  # `url` is a public service that wants a key; else `url` is an example for messages


@dataclass(frozen=True, slots=True)
class LlmEndpoint:
    """One model on one server. Its values have been checked."""

    vendor: Vendor
    url: str
    host: str  # for messages, with the port if one was given
    model: str
    key: str = field(repr=False)  # "" for none
    loopback: bool
    tls: ssl.SSLContext | None = None  # None: the authorities that the machine trusts

    @property
    def who(self) -> str:
        """The model and its server, for messages."""
        return f"{self.model} at {self.host}" if self.model else self.host


def resolve(settings: ModelSettings, vendor: Vendor) -> LlmEndpoint:
    """Return the endpoint that the settings mean, with the environment taken in.

    A `base_url` of the settings gets no key from the environment: that key was meant for another server. Raises ConfigError
    for an address that is none, a missing model or key, and a key that would be sent in clear text to another machine.
    """
    if settings.template is not None:
        check_template(settings.template)
    key = _key(settings, vendor)
    url = (settings.base_url or os.environ.get(vendor.url_variable) or vendor.url).strip().rstrip("/")
    parts, host = _address(url, vendor)
    if key and not may_carry_key(parts.scheme, host):
        raise ConfigError(f"a key would be sent to {host} in clear text", hint="use https://, or leave the key out")
    is_vendor = vendor.service and host == urlsplit(vendor.url).hostname
    if is_vendor and not key:
        raise ConfigError(f"no key for {vendor.name}", hint=f"set {vendor.key_variable}")
    model = settings.model or (vendor.model if is_vendor else "")
    if not model and vendor.service:
        raise ConfigError(f"no model is set for {host}", hint="set model to the name of one that it has")
    shown = host if parts.port is None else f"{host}:{parts.port}"
    return LlmEndpoint(vendor, url, shown, model, key, is_loopback(host), _authorities(settings.ca_file))


def endpoint_of(base_url: str, key: object, settings: ModelSettings, vendor: Vendor) -> LlmEndpoint:
    """Return the endpoint of an SDK's client that the caller has made.

    Raises ConfigError for a missing model, and for settings that belong to that client.
    """
    for name in ("base_url", "api_key", "ca_file"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"{name} is given beside client", hint=f"set {name} in the client, and only there")
    if settings.template is not None:
        check_template(settings.template)
    parts, host = _address(base_url.rstrip("/"), vendor)
    model = settings.model or (vendor.model if host == urlsplit(vendor.url).hostname else "")
    if not model:
        raise ConfigError(f"no model is set for {host}", hint="set model to the name of one that it has")
    shown = host if parts.port is None else f"{host}:{parts.port}"
    return LlmEndpoint(vendor, base_url, shown, model, key if isinstance(key, str) else "", is_loopback(host))


def _key(settings: ModelSettings, vendor: Vendor) -> str:
    """Return the key, "" for none."""
    key = settings.api_key
    if key is None:
        key = "" if settings.base_url else os.environ.get(vendor.key_variable, "")
    key = key.strip()
    if key and not is_key(key):
        what = f"the key for {vendor.name} holds a character that no key has"
        raise ConfigError(what, hint=f"set {vendor.key_variable} again")
    return key


def _address(url: str, vendor: Vendor) -> tuple[SplitResult, str]:
    """Return the parts of a base_url, and its host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # Brackets without an end, or a port that is no number.
        parts = urlsplit("")
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ConfigError("base_url is no http:// or https:// URL", hint=f"such as {vendor.url}")
    # The base_url of a vendor's API is the beginning of an address, that of other servers is all of it.
    query = parts.query if vendor.service else ""
    if parts.username is not None or query or parts.fragment:
        what = f"base_url for {parts.hostname} holds a name, password or query"
        raise ConfigError(what, hint="give the key as api_key, and only there")
    return parts, parts.hostname


def _authorities(ca_file: str | None) -> ssl.SSLContext | None:
    try:
        return None if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        what = f"ca_file {ca_file}: {exc.strerror or 'no certificates in PEM'}"
        raise ConfigError(what, hint="give a PEM file with the authority's certificate") from exc


def http_client(kind: type[httpx2.AsyncClient], endpoint: LlmEndpoint) -> httpx2.AsyncClient:
    """Return an HTTP client for an SDK. `kind`: the SDK's own on aiohttp, which costs a third of the usual one per token.

    Reads have no limit here: `answer.py` limits them. Redirects are not followed, because they would carry the key along.
    The proxies of the environment are used, but never for this machine. Blocks while it reads certificates.
    """
    import httpx2

    return kind(
        # Reading the authorities takes 20 ms, which is not needed without TLS.
        verify=endpoint.tls or not (endpoint.loopback and endpoint.url.startswith("http:")),
        timeout=httpx2.Timeout(None, connect=CONNECT_S),
        limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=IDLE_S),
        follow_redirects=False,
        mounts=dict.fromkeys(("all://", "http://", "https://")) if endpoint.loopback else None,
    )


def http_session(endpoint: LlmEndpoint, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """Return an HTTP session for a client without an SDK. It costs two thirds of an SDK's raw response per token."""
    import aiohttp

    return aiohttp.ClientSession(
        # Compressors hold tokens back.
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **headers},
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, ssl=endpoint.tls or True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        trust_env=not endpoint.loopback,  # That is, the proxies of the environment.
        cookie_jar=aiohttp.DummyCookieJar(),
    )
