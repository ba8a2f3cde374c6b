"""A new API is one file, toy.py, and one row in `app.APIS`: keys, limits, errors, metrics and the OpenAPI document know it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm2ws.server import app, openapi
from tests.server import toy
from tests.server.conftest import Start
from tests.server.test_access import with_keys
from tests.watch.test_metrics import value


async def test_a_new_api_is_a_file_and_a_row(start: Start, canary: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "APIS", (*app.APIS, toy.API))
    key = canary()
    headers = {"Authorization": f"Bearer {key}"}
    async with start(server=with_keys(key)) as daemon:
        async with daemon.http.post("/toy", json={"text": "One. Two."}, headers=headers) as answer:
            assert (answer.status, (await answer.text()).split()) == (200, ["One.", "Two."])
        async with daemon.http.post("/toy", json={"text": "One."}) as answer:
            assert answer.status == 401
        async with daemon.http.post("/toy", json={"text": 1}, headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "text")
        async with daemon.http.get(openapi.PATH) as answer:
            assert "post" in (await answer.json())["paths"]["/toy"]
        assert value(daemon.daemon.metrics, 'llm2ws_turns_total{face="toy",outcome="done"}') == 1
