"""The page at `/`: its files, and under which policy a browser runs them. What it asks is answered by `POST /chat`."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from aiohttp import hdrs, web

from .daemon import Face, Problem

__all__ = ["FACE"]

# Every file there is, and its type. `/static/player.js` is for other pages too.
_TYPES = {
    "icon.svg": "image/svg+xml",
    "index.html": "text/html",
    "page.js": "text/javascript",
    "player.js": "text/javascript",
    "style.css": "text/css",
    "worklet.js": "text/javascript",
}

# Nothing from elsewhere, nothing inline, and no text can become a script or markup.
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
    """A file, and what tells that it is the same as before."""
    body = files(__package__).joinpath("static", name).read_bytes()
    return body, hashlib.sha256(body).hexdigest()[:16]


def _answer(request: web.Request, name: str) -> web.Response:
    if name not in _TYPES:
        raise Problem(404, "there is no such file: look at the address", code="not_found")
    body, etag = _file(name)
    headers = {**_HEADERS, hdrs.ETAG: f'"{etag}"'}
    if any(known.value in (etag, "*") for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=_TYPES[name], charset="utf-8", headers=headers)


async def _page(request: web.Request) -> web.Response:
    return _answer(request, "index.html")


async def _static(request: web.Request) -> web.Response:
    return _answer(request, request.match_info["name"])


FACE = Face([web.get("/", _page), web.get("/static/{name}", _static)], public=True)
