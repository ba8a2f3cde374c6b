"""The document says what the code does."""

from __future__ import annotations

from typing import Any

from llm2ws.server.app import create_app
from llm2ws.server.openapi import PATH
from tests.server.conftest import OPERATIONS, Start

WEBSOCKETS = {"GET /v1/speak", "GET /v1/realtime"}


async def test_every_route_is_in_it_and_no_other(start: Start) -> None:
    async with start() as daemon:
        served = {
            f"{route.method} {route.resource.canonical}"
            for route in create_app(daemon.daemon).router.routes()
            if route.resource and route.method not in ("HEAD", "OPTIONS")
        }
        async with daemon.http.get(PATH) as answer:
            document = await answer.json()
    assert served - WEBSOCKETS == set(OPERATIONS)
    said = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert said == set(OPERATIONS)


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        here = {node["$ref"]} if "$ref" in node else set()
        return here.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


async def test_what_it_refers_to_is_there(start: Start) -> None:
    async with start() as daemon, daemon.http.get(PATH) as answer:
        document = await answer.json()
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


async def test_every_post_says_what_it_reads_and_refuses_what_is_not_that(start: Start) -> None:
    async with start("Hello.") as daemon:
        async with daemon.http.get(PATH) as answer:
            document = await answer.json()
        posts = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
        assert len(posts) >= 3
        for path, post in posts.items():
            schema = post["requestBody"]["content"]["application/json"]["schema"]
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            for name, kind in schema["properties"].items():
                kinds = {one.get("type") for one in kind.get("anyOf", [kind])}
                wrong: Any = {} if not kinds & {"object", None} else 5 if not kinds & {"number", "integer", None} else None
                if wrong is None:
                    continue
                async with daemon.http.post(path, json={name: wrong}) as answer:
                    error = (await answer.json())["error"]
                    assert (answer.status, error["param"]) == (400, name) or error["param"] in schema["required"], (path, name)
            async with daemon.http.post(path, json=[]) as answer:
                assert answer.status == 400
        assert daemon.llm.requests == []
