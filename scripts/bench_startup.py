"""How long `llm2ws say` takes from process start to its first Speak, beside a bare import of the WebSocket client."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from websockets.asyncio.server import Server, ServerConnection, serve

ROOT = Path(__file__).resolve().parent.parent
TEXT = "Hello. This is llm2ws speaking."
BASELINE = "import asyncio, websockets.asyncio.client"


class Endpoint:
    """Speaks as much Deepgram Speak v1 as one short turn needs: 20 ms of silence and an ack for each Flush."""

    def __init__(self) -> None:
        self.first_speak_at = 0.0

    async def handle(self, socket: ServerConnection) -> None:
        flushes = 0
        async for message in socket:
            match json.loads(message)["type"]:
                case "Speak":
                    self.first_speak_at = self.first_speak_at or time.monotonic()
                case "Flush":
                    await socket.send(bytes(960))
                    await socket.send(json.dumps({"type": "Flushed", "sequence_id": flushes}))
                    flushes += 1
                case "Clear":
                    await socket.send(json.dumps({"type": "Cleared", "sequence_id": flushes}))
                case "Close":
                    return


async def run(*args: str) -> float:
    """Runs Python to its end; when it was started, as time.monotonic() tells it."""
    started_at = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", *args, env=environment)
    if await process.wait() != 0:
        sys.exit(f"failed: {' '.join(args)}")
    return started_at


async def first_speak_s(server: Server, endpoint: Endpoint) -> float:
    endpoint.first_speak_at = 0.0
    port = server.sockets[0].getsockname()[1]
    speech = f"ws://127.0.0.1:{port}"
    started_at = await run("-m", "llm2ws", "say", TEXT, "--speech", speech, "-o", "/dev/null", "--quiet")
    if not endpoint.first_speak_at:
        sys.exit("llm2ws ended without a Speak")
    return endpoint.first_speak_at - started_at


async def baseline_s() -> float:
    started_at = await run("-c", BASELINE)
    return time.monotonic() - started_at


async def measure(runs: int) -> tuple[list[float], list[float]]:
    """Both by turns, so that both meet the same machine. The first pair warms caches and is not counted."""
    endpoint = Endpoint()
    async with serve(endpoint.handle, "127.0.0.1", 0, compression=None) as server:
        pairs = [(await first_speak_s(server, endpoint), await baseline_s()) for _ in range(runs + 1)][1:]
    return [speak for speak, _ in pairs], [base for _, base in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    speak, base = asyncio.run(measure(parser.parse_args().runs))
    print(f"machine        {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    for name, values in (("first Speak", speak), ("bare import", base)):
        print(
            f"{name:14} median {statistics.median(values):.3f} s, min {min(values):.3f}, max {max(values):.3f}, n {len(values)}"
        )
    print(f"{'ratio':14} {statistics.median(speak) / statistics.median(base):.2f}")


if __name__ == "__main__":
    main()
