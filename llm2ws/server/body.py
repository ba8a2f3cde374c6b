"""The bodies of requests: read within the client's limits, and decoded strictly."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web

from .daemon import CLIENT
from .problems import Problem

__all__ = ["BODY_S", "decode_json", "read_body", "read_json"]

_T = TypeVar("_T")

BODY_S = 30.0  # How long a request's body may take to arrive.


async def read_json(request: web.Request, kind: type[_T]) -> _T:
    """Return the body of a request as a `kind`. Raises Problem, which names the field that is wrong."""
    return decode_json(await read_body(request), kind)


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request. Raises Problem when it is larger than the client's limit, late, or broken off."""
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


def decode_json(body: bytes | str, kind: type[_T]) -> _T:
    """Return JSON as a `kind`, converting no value to another type. Raises Problem, which names the field that is wrong."""
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
