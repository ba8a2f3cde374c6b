"""The state that requests share: who uses which service, and when a service is closed."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from llm2ws.server.access import Access
from llm2ws.service import Service
from llm2ws.settings.fields import ClientLimits
from tests.server.conftest import Start, says
from tests.server.test_chat import ASK
from tests.sources.replay import End


async def test_a_replaced_service_serves_what_began_with_it_and_is_closed_then(start: Start) -> None:
    async with start(says("One. Two.", end=End.HOLD)) as running:
        daemon = running.daemon
        before = daemon.service
        async with running.http.post("/v1/chat/completions", json={**ASK, "stream": True}) as answer:
            await answer.content.readany()
            assert daemon.running == 1
            server = replace(daemon.settings.server, limits=ClientLimits(conversations=7))
            settings = replace(daemon.settings, server=server)
            service = await Service(settings).__aenter__()
            daemon.exchange(settings, service, Access(server, daemon.access))
            assert daemon.service is service
            assert before.pool.connections("faulty") == 1
            async with running.http.get("/v1/models") as other:
                assert other.status == 200
            assert daemon.access.keyless_client.limits.conversations == 7
        async with asyncio.timeout(10):
            await daemon.until_unused()
            while before.pool.connections("faulty"):
                async with running.http.get("/healthz"):
                    pass
