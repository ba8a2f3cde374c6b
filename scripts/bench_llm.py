"""CPU that reading one token of a language model costs: the official SDK's iterator, llm2ws, and bare aiohttp, in one run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

STREAMS, TOKENS, TOKENS_PER_S = 10, 150, 50.0  # paced: what a busy daemon reads
BULK_TOKENS = 10_000  # as fast as it goes: what decoding alone costs


# The server, in a process and on a CPU of its own


def frames(path: str) -> tuple[bytes, bytes]:
    """One token, and what follows the last one, as OpenAI and Anthropic write them."""
    if path.endswith("/messages"):
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " word"}}
        return event("content_block_delta", delta), event("message_stop", {"type": "message_stop"})
    chunk = {
        "id": "chatcmpl-CxYz12AbCdEfGhIjKlMnOpQrStUvW",
        "object": "chat.completion.chunk",
        "created": 1771459200,
        "model": "gpt-5.4-mini-2026-03-17",
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
        "usage": None,
    }
    return event("", chunk), b"data: [DONE]\n\n"


def event(name: str, data: object) -> bytes:
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
            await reader.readexactly(int(length.partition(":")[2]))
            path = head.split()[1]
            token, last = (b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames(path))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            if path.startswith("/bulk"):
                for _ in range(BULK_TOKENS // 100):
                    writer.write(token * 100)
                    await writer.drain()
            else:
                for _ in range(TOKENS):
                    writer.write(token)
                    await asyncio.sleep(1 / TOKENS_PER_S)
            writer.write(last + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


# The readers: each gives the text of one answer


async def openai_sdk(stack: AsyncExitStack, url: str) -> Callable[[], AsyncIterator[str]]:
    import openai

    http = openai.DefaultAioHttpClient()
    client = await stack.enter_async_context(openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http))

    async def read() -> AsyncIterator[str]:
        chunks = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
        async for chunk in chunks:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    return read


async def anthropic_sdk(stack: AsyncExitStack, url: str) -> Callable[[], AsyncIterator[str]]:
    import anthropic

    http = anthropic.DefaultAioHttpClient()
    client = await stack.enter_async_context(anthropic.AsyncAnthropic(base_url=url, api_key="none", http_client=http))

    async def read() -> AsyncIterator[str]:
        question: Any = [{"role": "user", "content": "?"}]
        events = await client.messages.create(model="m", messages=question, max_tokens=9, stream=True)
        async for one in events:
            if one.type == "content_block_delta" and one.delta.type == "text_delta":
                yield one.delta.text

    return read


async def llm2ws_openai(stack: AsyncExitStack, url: str) -> Callable[[], AsyncIterator[str]]:
    from llm2ws.sources.model import ModelSettings
    from llm2ws.sources.openai import OpenAIChat

    chat = await stack.enter_async_context(OpenAIChat(ModelSettings(model="m", base_url=url)))
    return lambda: (item async for item in chat.answer("?") if isinstance(item, str))


async def llm2ws_anthropic(stack: AsyncExitStack, url: str) -> Callable[[], AsyncIterator[str]]:
    from llm2ws.sources.anthropic import AnthropicMessages
    from llm2ws.sources.model import ModelSettings

    messages = await stack.enter_async_context(AnthropicMessages(ModelSettings(model="m", base_url=url)))
    return lambda: (item async for item in messages.answer("?") if isinstance(item, str))


async def bare_aiohttp(stack: AsyncExitStack, url: str) -> Callable[[], AsyncIterator[str]]:
    """The least that a reader can do, and nothing of what one must: no limits, no errors, no other line ends."""
    import aiohttp
    import msgspec

    session = await stack.enter_async_context(aiohttp.ClientSession())

    async def read() -> AsyncIterator[str]:
        rest = b""
        async with session.post(f"{url}/chat/completions", json={"model": "m", "stream": True}) as response:
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for one in events:
                    if one != b"data: [DONE]":
                        yield msgspec.json.decode(one[6:])["choices"][0]["delta"]["content"]

    return read


READERS: dict[str, Callable[[AsyncExitStack, str], Any]] = {
    "bare aiohttp": bare_aiohttp,
    "llm2ws openai": llm2ws_openai,
    "llm2ws anthropic": llm2ws_anthropic,
    "openai SDK": openai_sdk,
    "anthropic SDK": anthropic_sdk,
}


# Measuring


class Measured(NamedTuple):
    """CPU of this process in microseconds a token."""

    paced_us: float
    bulk_us: float


async def cpu_us(read: Callable[[], AsyncIterator[str]], streams: int) -> float:
    """From the moment when every answer has begun: what a request costs is not in it."""
    ready = asyncio.Event()
    begun = tokens = 0
    started = 0.0

    async def one() -> None:
        nonlocal begun, tokens, started
        answer = read()
        await anext(answer)
        begun += 1
        if begun == streams:
            ready.set()
            tokens, started = 0, time.process_time()
        async for _ in answer:
            tokens += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(one())
    return (time.process_time() - started) / tokens * 1e6


async def measure(origin: str, runs: int) -> dict[str, list[Measured]]:
    """All readers by turns, so that all meet the same machine. The first round warms up and is not counted."""
    found: dict[str, list[Measured]] = {name: [] for name in READERS}
    async with AsyncExitStack() as stack:
        made = {name: [await make(stack, f"{origin}/{pace}") for pace in ("paced", "bulk")] for name, make in READERS.items()}
        for n in range(runs + 1):
            for name, (paced, bulk) in made.items():
                measured = Measured(await cpu_us(paced, STREAMS), await cpu_us(bulk, 1))
                if n:
                    found[name].append(measured)
    return found


def pin(cpus: list[int]) -> None:
    """The server and its readers do not share a CPU, where there are two and the system can be told so."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if args.serve:
        pin(cpus[:1])
        asyncio.run(serve())
        return
    with subprocess.Popen([sys.executable, "-P", __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            pin(cpus[1:])
            found = asyncio.run(measure(f"http://127.0.0.1:{port}", args.runs))
        finally:
            server.kill()
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, median of {args.runs}")
    print(
        f"paced    {STREAMS} answers at once, {TOKENS_PER_S:g} tokens a second each; bulk: {BULK_TOKENS} tokens at full speed"
    )
    print(f"{'':18}{'paced us/token':>16}{'ratio':>8}{'bulk us/token':>16}{'ratio':>8}")
    base: Measured | None = None
    for name, runs in found.items():
        median = Measured(*(statistics.median(values) for values in zip(*runs, strict=True)))
        base = base or median
        paced, bulk = median.paced_us / base.paced_us, median.bulk_us / base.bulk_us
        print(f"{name:18}{median.paced_us:16.1f}{paced:8.2f}{median.bulk_us:16.1f}{bulk:8.2f}")


if __name__ == "__main__":
    main()
