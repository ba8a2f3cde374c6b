"""The HTTP faces as an OpenAPI 3.1 document, made of the routes and of the types with which bodies are read.

WebSockets have no place in it: `/v1/speak` is as Deepgram documents it, `/v1/realtime` as OpenAI does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from .daemon import Face

__all__ = ["OPERATIONS", "PATH", "Operation", "document", "face"]

PATH = "/openapi.json"
_EVENTS = "text/event-stream"
_JSON = "application/json"


class Operation(NamedTuple):
    """What a reader needs besides the types: one line, and what the answer is."""

    summary: str
    answers: Sequence[str] = (_JSON,)


OPERATIONS: dict[str, Operation] = {
    "GET /": Operation("The page", ("text/html",)),
    "GET /healthz": Operation("Whether the daemon lives"),
    "GET /metrics": Operation("What it has counted, for Prometheus", ("text/plain",)),
    f"GET {PATH}": Operation("This document"),
    "GET /readyz": Operation("Whether it can take a conversation; 503 and the reason when not"),
    "GET /static/{name}": Operation("The page's files", ("text/javascript", "text/css")),
    "GET /v1/audio/models": Operation("The names of models for speech"),
    "GET /v1/audio/voices": Operation("The names of voices"),
    "GET /v1/models": Operation("The LLMs that can be asked, and the voices"),
    "GET /v1/models/{model}": Operation("One of the LLMs"),
    "POST /chat": Operation("An answer as events: its text, and what of it is spoken when", (_EVENTS,)),
    "POST /v1/audio/speech": Operation(
        "Speech for a text, while it is made", ("audio/mpeg", "audio/wav", "audio/pcm", _EVENTS)
    ),
    "POST /v1/chat/completions": Operation("An LLM's answer, with speech where modalities ask for it", (_JSON, _EVENTS)),
}


def face(faces: Sequence[Face]) -> Face:
    """The route of the document about these faces, and about itself."""

    async def serve(_request: web.Request) -> web.Response:
        return web.json_response(body=made)

    own = Face([web.get(PATH, serve)], public=True)
    made = msgspec.json.encode(document([*faces, own]))
    return own


def document(faces: Iterable[Face]) -> dict[str, Any]:
    """The document. A route without a line in `OPERATIONS` is a WebSocket's."""
    bodies = {path: kind for one in faces for path, kind in one.bodies.items()}
    schemas, components = msgspec.json.schema_components(
        bodies.values(),
        schema_hook=lambda _kind: {},  # anything, such as `object`
        ref_template="#/components/schemas/{name}",
    )
    by_path = dict(zip(bodies, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in faces:
        for route in one.routes:
            if (operation := OPERATIONS.get(f"{route.method} {route.path}")) is not None:
                described = _operation(operation, route.path, by_path.get(route.path), public=one.public)
                paths.setdefault(route.path, {})[route.method.lower()] = described
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


def _operation(operation: Operation, path: str, body: Mapping[str, Any] | None, *, public: bool) -> dict[str, Any]:
    error = {"content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    found: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "As asked", "content": {kind: {} for kind in operation.answers}},
            "default": {"description": "What was wrong, and what to do", **error},
        },
    }
    if names:
        found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if body is not None:
        found["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    if not public:
        found["security"] = [{"key": []}, {}]  # none where no client keys are set
    return found
