"""Every failure of an LLM as one line: what was wrong, where, what to do.

A server's own words are not repeated, because they may hold the prompt, the answer or the key. They are logged at DEBUG. The
causes that they name are recognised here and put in words of this module.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import SourceError
from .model import LlmEndpoint

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "broke_off",
    "broken",
    "ended_early",
    "failed",
    "no_answer",
    "no_end",
    "no_text",
    "of_grpc",
    "of_sdk",
    "refused",
    "silent",
    "transport_errors",
]

_log = logging.getLogger(__name__)


class _Diagnosis(NamedTuple):
    """What was wrong, what to do, and whether the same request may succeed later or elsewhere."""

    what: str
    hint: str
    retry: bool = False


_STATUS = {
    401: _Diagnosis("the key was refused", "set {key_variable} to a valid key"),
    402: _Diagnosis("the account has no credit left", "add credit, or choose another model"),
    403: _Diagnosis("the key may not use this model", "choose another model, or allow it for the key"),
    404: _Diagnosis("no such address or model", "check the settings base_url (usually like {url}) and model"),
    408: _Diagnosis("the server gave up waiting", "try again", retry=True),
    409: _Diagnosis("the server is busy with something that conflicts", "try again", retry=True),
    413: _Diagnosis("the conversation is longer than the server takes", "shorten it"),
    429: _Diagnosis("too many requests", "try again later, or raise the limit of the account", retry=True),
    503: _Diagnosis("the server is not ready", "try again later", retry=True),
    529: _Diagnosis("the server is overloaded", "try again later", retry=True),
}
_CLIENT_ERROR = _Diagnosis("the request was refused", "check the settings model, temperature, max_tokens, stop and extra")
_SERVER_ERROR = _Diagnosis("an error of the server", "try again, or look into its log", retry=True)

# What servers say in errors of any status. The first pattern that is found holds.
_CAUSES: list[tuple[re.Pattern[str], _Diagnosis]] = [
    (
        re.compile(r"insufficient_quota|exceeded your current quota|billing|credit balance", re.IGNORECASE),
        _Diagnosis("the account has no credit left", "add credit, or choose another model"),
    ),
    (
        re.compile(r"context.?(length|window|size)|maximum context|prompt is too long|too many (input )?tokens", re.IGNORECASE),
        _Diagnosis("the conversation is longer than the model takes", "shorten it, or choose another model"),
    ),
    (
        re.compile(r"model.{0,80}(not found|does not exist|not exist|unknown)|unknown model|model_not_found", re.IGNORECASE),
        _Diagnosis("it has no such model", "set model to the name of one that it has"),
    ),
    (
        re.compile(r"more system memory|out of memory|insufficient memory", re.IGNORECASE),
        _Diagnosis("the server has too little memory for the model", "choose a smaller model"),
    ),
    (re.compile(r"overloaded", re.IGNORECASE), _STATUS[529]),
    (re.compile(r"rate.?limit", re.IGNORECASE), _STATUS[429]),
]

# Failures of a connection.
_NETWORK = "check base_url, and the network"
_NO_ADDRESS = _Diagnosis("there is no such address", _NETWORK, retry=True)
_CERTIFICATE = _Diagnosis("its certificate is not trusted", "set ca_file to the authority's PEM file")
_TLS = _Diagnosis("TLS failed", "check whether base_url is https:// or http://")
_NOBODY = _Diagnosis("nothing listens there", "start the server, or check base_url", retry=True)
_UNREACHABLE = _Diagnosis("it cannot be reached", _NETWORK, retry=True)
_BROKE = _Diagnosis("the connection broke", "try again, or look into the server's log", retry=True)

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{2,60}")


def refused(endpoint: LlmEndpoint, status: int, body: object, headers: Mapping[str, str]) -> SourceError:
    """Return the error for a status other than success."""
    if 300 <= status < 400:
        location = headers.get("location", "").partition("?")[0]
        plain = re.fullmatch(r"https?://[\w.:/-]{1,200}", location) and not _holds_key(endpoint, location)
        shown = f" to {location}" if plain else ""
        what = f"{endpoint.who}: {status}, it redirects{shown}"
        return SourceError(what, hint="set base_url to where the server really is", status=status)
    diagnosis = _of_status(status, body, endpoint)
    wait = headers.get("retry-after", "")
    hint = f"try again in {wait} s" if diagnosis.retry and re.fullmatch(r"[0-9]{1,6}", wait) else diagnosis.hint
    return _error(endpoint, f"{status}, {diagnosis.what}", body, hint, status=status, retry=diagnosis.retry)


def _of_status(status: int, body: object, endpoint: LlmEndpoint) -> _Diagnosis:
    if status == 401 and not endpoint.key:
        return _Diagnosis("it asks for a key", "set api_key")
    diagnosis = _STATUS.get(status) or (_SERVER_ERROR if status >= 500 else _CLIENT_ERROR)
    return diagnosis if status in (401, 402, 403) else _cause(body) or diagnosis


def of_sdk(exc: Exception, endpoint: LlmEndpoint) -> SourceError:
    """Return the error for an exception of an official SDK, or of the libraries below it. One generator made both SDKs."""
    if isinstance(status := getattr(exc, "status_code", None), int) and status >= 300:  # Else it is an error in a stream.
        response: httpx2.Response = exc.response  # type: ignore[attr-defined]
        return refused(endpoint, status, getattr(exc, "body", None), response.headers)
    if (body := getattr(exc, "body", None)) is not None:
        return failed(endpoint, body)
    return broken(endpoint, exc)


# Status codes of gRPC, and the HTTP status with the same meaning.
_GRPC = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 408,
    "INTERNAL": 500,
    "RESOURCE_EXHAUSTED": 429,
    "UNKNOWN": 500,
}
# Words of gRPC for a failed connection. It gives no other sign of the cause.
_GRPC_LINKS: list[tuple[re.Pattern[str], _Diagnosis]] = [
    (re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"), _CERTIFICATE),
    (re.compile(r"SSL|TLS|handshake", re.IGNORECASE), _TLS),
    (re.compile(r"DNS resolution|name resolution", re.IGNORECASE), _NO_ADDRESS),
    (re.compile(r"Connection refused"), _NOBODY),
    (re.compile(r"failed to connect", re.IGNORECASE), _UNREACHABLE),
]


def of_grpc(exc: Exception, endpoint: LlmEndpoint) -> SourceError:
    """Return the error for the end of a gRPC call."""
    code = getattr(getattr(exc, "code", lambda: None)(), "name", "")
    details = getattr(exc, "details", lambda: "")() or ""
    shown = details.replace(endpoint.key, "***") if endpoint.key else details
    _log.debug("%s: %s: %s", endpoint.who, code or type(exc).__name__, shown)
    if code == "UNIMPLEMENTED":
        diagnosis = _Diagnosis("it does not speak KServe v2", "check base_url: the port of gRPC is usually 8001")
    elif code in _GRPC:
        diagnosis = _of_status(_GRPC[code], details, endpoint)
    elif code == "UNAVAILABLE":
        diagnosis = next((status for pattern, status in _GRPC_LINKS if pattern.search(details)), _BROKE)
    else:
        diagnosis = _BROKE
    named = f"{code}, " if code and diagnosis is not _BROKE else ""
    hint = diagnosis.hint.format(key_variable=endpoint.vendor.key_variable, url=endpoint.vendor.url)
    return SourceError(f"{endpoint.who}: {named}{diagnosis.what}", hint=hint, status=_GRPC.get(code), retry=diagnosis.retry)


def failed(endpoint: LlmEndpoint, body: object) -> SourceError:
    """Return the error for a failure that the server reports in its answer, under a status of success."""
    diagnosis = _cause(body) or _status_in(body, endpoint) or _SERVER_ERROR
    what = f"failed while answering, {diagnosis.what}"
    return _error(endpoint, what, body, diagnosis.hint, status=None, retry=diagnosis.retry)


def _status_in(body: object, endpoint: LlmEndpoint) -> _Diagnosis | None:
    """Return what the status within an error means: a gateway that began its answer with 200 puts it there."""
    for _ in range(3):
        if not isinstance(body, Mapping):
            break
        for key in ("code", "status", "status_code"):
            if isinstance(status := body.get(key), int) and 400 <= status < 600:
                return _of_status(status, None, endpoint)
        body = body.get("error")
    return None


def broke_off(endpoint: LlmEndpoint, reason: str) -> SourceError:
    """Return the error for an answer that ended with a `reason` that says that the server gave up."""
    named = f" ({reason})" if _IDENTIFIER.fullmatch(reason) and not _holds_key(endpoint, reason) else ""
    return SourceError(f"{endpoint.who}: gave up while answering{named}", hint=_SERVER_ERROR.hint, retry=True)


def no_text(endpoint: LlmEndpoint, hint: str) -> SourceError:
    """Return the error for an answer that is complete, and in whose data no text was recognised."""
    return SourceError(f"{endpoint.who}: sent data in which there is no text that is known here", hint=hint)


def silent(endpoint: LlmEndpoint, stall_s: float | None) -> SourceError:
    """Return the error for `stall_s` seconds without data within an answer; None: for no data at all."""
    if stall_s is None:
        return SourceError(
            f"{endpoint.who}: no answer in time", hint="raise first_token_s if the model needs longer to load", retry=True
        )
    return SourceError(f"{endpoint.who}: nothing came for {stall_s:g} s", hint="try again, or raise stall_s", retry=True)


def no_end(endpoint: LlmEndpoint, reasoning_s: float) -> SourceError:
    """Return the error for `reasoning_s` seconds of reasoning without any text."""
    what = f"{endpoint.who}: reasoned for {reasoning_s:g} s and wrote no answer"
    return SourceError(what, hint="set max_tokens, or choose a model that reasons less", retry=True)


def no_answer(endpoint: LlmEndpoint, kind: str) -> SourceError:
    """Return the error for a status of success with a body that is `kind` and no answer."""
    hint = f"check base_url, which is usually like {endpoint.vendor.url}"
    return SourceError(f"{endpoint.who}: answered with {kind} that is no answer of a model", hint=hint)


def ended_early(endpoint: LlmEndpoint) -> SourceError:
    """Return the error for a stream that ended before the answer was complete."""
    return SourceError(
        f"{endpoint.who}: the answer ended before it was complete", hint="look into the server's log", retry=True
    )


def broken(endpoint: LlmEndpoint, exc: Exception) -> SourceError:
    """Return the error for a connection that could not be opened, or broke. The reason is in the causes of `exc`."""
    import aiohttp

    chain = _chain(exc)
    _log.debug("%s: %s", endpoint.who, " from ".join(type(error).__name__ for error in chain))
    reasons: list[tuple[type[BaseException], _Diagnosis]] = [
        (aiohttp.ClientProxyConnectionError, _Diagnosis("the proxy cannot be reached", "check HTTPS_PROXY", retry=True)),
        (aiohttp.ClientHttpProxyError, _Diagnosis("the proxy refused", "check HTTPS_PROXY")),
        (socket.gaierror, _NO_ADDRESS),
        (ssl.SSLCertVerificationError, _CERTIFICATE),
        (ssl.SSLError, _TLS),
        (ConnectionRefusedError, _NOBODY),
        (TimeoutError, _Diagnosis("no connection in time", _NETWORK, retry=True)),
        (aiohttp.ClientConnectorError, _UNREACHABLE),
        (Exception, _BROKE),
    ]
    reason = next(reason for kind, reason in reasons if any(isinstance(error, kind) for error in chain))
    return SourceError(f"{endpoint.who}: {reason.what}", hint=reason.hint, retry=reason.retry)


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that an SDK lets through from the libraries below. They are imported: call it after the SDK is."""
    import aiohttp
    import httpx2

    return (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)


def _chain(exc: BaseException) -> list[BaseException]:
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _cause(body: object) -> _Diagnosis | None:
    words = _words(body)
    return next((cause for pattern, cause in _CAUSES if pattern.search(words)), None)


def _words(body: object) -> str:
    """Return all that a server says of an error. It is read here, and never repeated in a message."""
    return body[:2000] if isinstance(body, str) else " | ".join(_strings(body, ("error", "code", "type", "message", "detail")))


def _strings(body: object, keys: tuple[str, ...]) -> list[str]:
    """Return the texts under these keys of an error. Servers wrap an error once, twice or not at all."""
    found: list[str] = []
    for _ in range(3):
        if not isinstance(body, Mapping):
            break
        found += [value[:2000] for key in keys if isinstance(value := body.get(key), str)]
        body = body.get("error")
    return found


def _error(endpoint: LlmEndpoint, what: str, body: object, hint: str, *, status: int | None, retry: bool) -> SourceError:
    """Return an error with the identifiers that the server gave, such as a code, which a person can look up."""
    words = _words(body)
    _log.debug("%s: %s: %s", endpoint.who, what, words.replace(endpoint.key, "***") if endpoint.key else words)
    codes = dict.fromkeys(_strings(body, ("code", "type", "param")))
    shown = [code for code in codes if code != "error" and _IDENTIFIER.fullmatch(code) and not _holds_key(endpoint, code)]
    named = f" ({', '.join(shown[:3])})" if shown else ""
    hint = hint.format(key_variable=endpoint.vendor.key_variable, url=endpoint.vendor.url)
    return SourceError(f"{endpoint.who}: {what}{named}", hint=hint, status=status, retry=retry)


def _holds_key(endpoint: LlmEndpoint, text: str) -> bool:
    return bool(endpoint.key) and endpoint.key in text
