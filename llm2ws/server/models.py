"""OpenAI's list of models: the LLMs that can be asked, and beside it the voices."""

from __future__ import annotations

from aiohttp import web

from .daemon import SERVICE, Face, Problem

__all__ = ["FACE"]


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm2ws"}


async def _models(request: web.Request) -> web.Response:
    service = request[SERVICE]
    return web.json_response(
        {"object": "list", "data": [_model(name) for name in service.llms], "voices": [{"id": name} for name in service.voices]}
    )


async def _one_model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    if name not in request[SERVICE].llms:
        raise Problem(404, "there is no model of that name: GET /v1/models lists them", code="model_not_found", param="model")
    return web.json_response(_model(name))


FACE = Face([web.get("/v1/models", _models), web.get("/v1/models/{model}", _one_model)])
