"""config/haproxy.cfg as it is, before three daemons that are processes of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from websockets.http11 import Request

from llm2ws.speech.dialects.deepgram_server import ServerLimits
from llm2ws.testing import FaultySpeech
from llm2ws.testing.endpoint import Answer
from tests.replicas import assert_a_burst_is_served, assert_a_drained_one_loses_no_call, assert_idle_clients_come_back
from tests.server.conftest import CODING
from tests.support import MS, ROOT, child_environment

pytestmark = [
    pytest.mark.skipif(not shutil.which("haproxy"), reason="needs: haproxy"),
    pytest.mark.timeout(120),
]

SETTINGS = """
[server]
replicas = 3
[speech.shared]
dialect = "deepgram"
url = "{url}"
{more}
[speech.shared.limits]
chars_per_window = 1000000
flushes_per_window = 1000000
"""


class FivePlaces(FaultySpeech):
    """What a plan of five connections gives: the sixth is refused, and that is remembered."""

    refused = 0

    def admit(self, request: Request) -> Answer | None:
        if self.open < 5:
            return super().admit(request)
        self.refused += 1
        return self.refusal(HTTPStatus.TOO_MANY_REQUESTS)


class Cluster(NamedTuple):
    """A balancer at `url`, where its metrics are, and the daemons behind it."""

    url: str
    metrics: str
    balancer: Process
    replicas: list[Process]

    async def kill(self) -> None:
        self.replicas[0].kill()
        await self.replicas[0].wait()

    async def drain(self) -> None:
        self.replicas[1].send_signal(signal.SIGTERM)
        assert await self.replicas[1].wait() == 0
        # Until that is noticed, it would be tried in turn with one that is killed next, and not the third.
        assert self.balancer.stderr is not None
        async with asyncio.timeout(20_000 * MS):
            while b"llm2ws-2 is DOWN" not in await self.balancer.stderr.readline():
                pass


@asynccontextmanager
async def process(
    *command: str | Path, env: dict[str, str], fds: tuple[int, ...] = (), until: str = ""
) -> AsyncIterator[Process]:
    """Until the block is left. `until`: what it writes to standard error once it is there."""
    child = await asyncio.create_subprocess_exec(*command, env=env, stderr=PIPE, pass_fds=fds, start_new_session=True)
    assert child.stderr is not None
    reading: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(20_000 * MS):
            while until and until.encode() not in await child.stderr.readline():
                pass
        # A pipe that nobody reads stops a process that logs when it is full. What the balancer writes is read in `drain`.
        reading = asyncio.create_task(child.stderr.read()) if until else None
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await (child.communicate() if reading is None else asyncio.gather(child.wait(), reading))


@asynccontextmanager
async def cluster(folder: Path, speech: FaultySpeech, more: str = "") -> AsyncIterator[Cluster]:
    """Three daemons that speak through `speech`. `more`: lines for [speech.shared]."""
    settings = folder / "llm2ws.toml"
    settings.write_text(SETTINGS.format(url=speech.url, more=more))
    async with AsyncExitStack() as stack:
        clients, metrics, *daemons = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        ports = [daemon.getsockname()[1] for daemon in daemons]
        for daemon in daemons:
            daemon.close()
        replicas = [
            await stack.enter_async_context(
                process(
                    *(sys.executable, "-P", "-m", "llm2ws"),
                    *("serve", "--listen", f"127.0.0.1:{port}", "--config", settings),
                    env=child_environment(),
                    until="listening on http",
                )
            )
            for port in ports
        ]
        env = {"PATH": os.environ["PATH"], "LLM2WS_SERVER__REPLICAS": "3"}
        env |= {f"LLM2WS_{n}": f"127.0.0.1:{port}" for n, port in enumerate(ports, 1)}
        env |= {"BALANCER_BIND": f"fd@{clients.fileno()}", "METRICS_BIND": f"fd@{metrics.fileno()}"}
        config = ROOT / "config" / "haproxy.cfg"
        balancer = await stack.enter_async_context(
            process("haproxy", "-db", "-f", config, env=env, fds=(clients.fileno(), metrics.fileno()))
        )
        url, where = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in (clients, metrics))
        yield Cluster(url, where, balancer, replicas)


async def test_replicas_together_stay_within_what_the_endpoint_allows(tmp_path: Path) -> None:
    async with (
        FivePlaces(coding=CODING, limits=ServerLimits()) as speech,
        cluster(tmp_path, speech, "connections = 5") as three,
    ):
        await assert_a_burst_is_served(three.url)
        assert speech.connections >= 3
        assert speech.refused == 0
        async with aiohttp.ClientSession(three.metrics) as http, http.get("/metrics") as response:
            text = await response.text()
    served = [line for line in text.splitlines() if line.startswith("haproxy_server_sessions_total")]
    assert len([line for line in served if float(line.rpartition(" ")[2]) > 0]) == 3, "one got nothing to do"
    assert 'haproxy_server_status{proxy="llm2ws",server="llm2ws-1",state="UP"} 1' in text


async def test_one_is_killed_and_one_is_drained(tmp_path: Path) -> None:
    async with FaultySpeech(coding=CODING, limits=ServerLimits()) as speech, cluster(tmp_path, speech) as three:
        await assert_a_drained_one_loses_no_call(three.url, three.drain)
        await assert_idle_clients_come_back(three.url, three.kill)
