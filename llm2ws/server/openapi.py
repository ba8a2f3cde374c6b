"""The HTTP APIs as an OpenAPI 3.1 document, made of the routes and of the types with which bodies are read.

WebSockets have no place in it: `/v1/speak` is as Deepgram documents it, `/v1/realtime` as OpenAI does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from .api import JSON, Api, Route

__all__ = ["PATH", "api", "document"]

PATH = "/openapi.json"


def api(apis: Iterable[Api]) -> Api:
    """Return the API that serves the document about `apis` and about itself."""

    async def serve(_request: web.Request) -> web.Response:
        return web.json_response(body=body)

    own = Api([Route("GET", PATH, serve, "This document")], public=True)
    body = msgspec.json.encode(document([*apis, own]))
    return own


def document(apis: Iterable[Api]) -> dict[str, Any]:
    """Return the document about `apis`."""
    routes = [(route, api.public) for api in apis for route in api.routes if route.summary]
    schemas, components = msgspec.json.schema_components(
        [route.body for route, _ in routes],
        schema_hook=lambda _kind: {},  # Any value, for types such as `object`.
        ref_template="#/components/schemas/{name}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for (route, public), schema in zip(routes, schemas, strict=True):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema, public=public)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llm2ws", "version": "1", "description": "LLM stream in, speech out."},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _operation(route: Route, schema: dict[str, Any], *, public: bool) -> dict[str, Any]:
    error = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    described: dict[str, Any] = {
        "summary": route.summary,
        "responses": {
            "200": {"description": "As asked", "content": {kind: {} for kind in route.answers}},
            "default": {"description": "What was wrong, and what to do", **error},
        },
    }
    if names:
        required = {"in": "path", "required": True, "schema": {"type": "string"}}
        described["parameters"] = [{"name": name, **required} for name in names]
    if route.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if not public:
        described["security"] = [{"key": []}, {}]  # None where no client keys are set.
    return described
