"""Problems: why a request is refused or an answer fails, in the forms in which OpenAI's and Deepgram's APIs say it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from aiohttp import web

from ..errors import ConfigError, ConnectFailed, Llm2wsError, SlowConsumerError, SourceError, SpeechError, UnknownName

__all__ = ["Problem", "deepgram_error", "draining_problem", "logged_problem", "openai_error", "to_problem"]

_log = logging.getLogger(__name__)


class Problem(Exception):
    """Why a request is refused or an answer failed, as its client reads it.

    `message` says what is wrong and what to do. `code` and `kind` are OpenAI's words for it; `code` is None where OpenAI has
    none. `param` names the field that is wrong, None where no single field is.
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
        """The error object of OpenAI's API."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


def draining_problem() -> Problem:
    """Return the problem of a request that comes, or is still answered, when the daemon stops."""
    message = "the daemon stops: ask another one, or later"
    return Problem(503, message, code="draining", kind="server_error", headers={"Retry-After": "1"})


def openai_error(problem: Problem, request_id: str) -> web.Response:
    """Return the response in the form of OpenAI's API, of which OpenAI's SDK makes typed errors."""
    return web.json_response({"error": problem.error}, status=problem.status, headers=problem.headers)


def deepgram_error(problem: Problem, request_id: str) -> web.Response:
    """Return the response in the form of Deepgram's API, which a refused WebSocket handshake has as well."""
    body = {"err_code": problem.code or problem.kind.upper(), "err_msg": problem.message, "request_id": request_id}
    headers = {**problem.headers, "dg-request-id": request_id, "dg-error": problem.message.replace("\n", " ")}
    return web.json_response(body, status=problem.status, headers=headers)


# What a client reads when the LLM's server refuses the request itself, by HTTP status.
_REFUSED_BY_LLM = {
    400: "the LLM's server refused the request: shorten it, or change its parameters",
    404: "the LLM's server has not what was asked for: choose another model",
    409: "the LLM's server is busy with something that conflicts: try again",
    413: "the conversation is longer than the LLM's server takes: shorten it",
    422: "the LLM's server refused the request: shorten it, or change its parameters",
}


def logged_problem(exc: Llm2wsError | web.HTTPException) -> Problem:
    """Log an error for the operator, and return what its client may read of it.

    A client's own mistake is not logged: its client reads all of it.
    """
    if not isinstance(exc, ConfigError | web.HTTPException):
        _log.warning("%s", exc)
    return to_problem(exc)


def to_problem(exc: Llm2wsError | web.HTTPException) -> Problem:
    """Return what a client may read of an error, which is the same over all APIs.

    It holds no address, key or setting of what is behind the daemon.
    """
    match exc:
        case web.HTTPException():
            allow = {name: value for name, value in exc.headers.items() if name in ("Allow", "Location")}
            return Problem(exc.status, f"{exc.reason}: look at the address and the method", headers=allow)
        case UnknownName():
            return Problem(404, str(exc), code="model_not_found", param="model")
        case ConfigError():
            return Problem(400, str(exc), code="invalid_value")
        case SourceError(status=int(status)) if status in _REFUSED_BY_LLM:
            return Problem(status, _REFUSED_BY_LLM[status])
        case ConnectFailed(status=400):
            message = "the speech endpoint refused it: ask for another voice, format or speed"
            return Problem(400, message, code="invalid_value")
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
    outcome = "failed: try again" if again else "cannot be used: its operator has to look into the daemon's log"
    return Problem(502, f"{what} {outcome}", code="upstream_error", kind="server_error")
