"""The page at `/`: its files, and the policy under which a browser runs them. Its questions go to `POST /chat`."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from aiohttp import hdrs, web

from .api import Api, Route
from .problems import Problem

__all__ = ["API"]

# Every file that is served, and its media type. `/static/player.js` is for other pages too.
_TYPES = {
    "icon.svg": "image/svg+xml",
    "index.html": "text/html",
    "page.js": "text/javascript",
    "player.js": "text/javascript",
    "style.css": "text/css",
    "worklet.js": "text/javascript",
}

# Nothing from other servers, nothing inline, and no text can become a script or markup.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{name} 'none'" for name in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


@cache
def _file(name: str) -> tuple[bytes, str]:
    """Return a file and its entity tag, which is the same for as long as the file is."""
    body = files(__package__).joinpath("static", name).read_bytes()
    return body, hashlib.sha256(body).hexdigest()[:16]


def _answer(request: web.Request, name: str) -> web.Response:
    if name not in _TYPES:
        raise Problem(404, "there is no such file: look at the address", code="not_found")
    body, etag = _file(name)
    headers = {**_HEADERS, hdrs.ETAG: f'"{etag}"'}
    if any(cached.value in (etag, "*") for cached in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=_TYPES[name], charset="utf-8", headers=headers)


async def _page(request: web.Request) -> web.Response:
    return _answer(request, "index.html")


async def _static(request: web.Request) -> web.Response:
    return _answer(request, request.match_info["name"])


_STATIC = Route("GET", "/static/{name}", _static, "The page's files", ("text/javascript", "text/css"))
API = Api([Route("GET", "/", _page, "The page", ("text/html",)), _STATIC], public=True)
