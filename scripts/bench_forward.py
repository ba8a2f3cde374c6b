"""What llm2ws costs beside a bare forwarder and the official SDK: CPU a token, delay, start-up, memory, in one run.

    scripts/bench forward [--runs N]

Each system runs in processes of its own, between an LLM and a speech endpoint that are another one on another CPU. The
forwarder reads the bytes of the LLM with aiohttp and sends each token as a Speak with websockets: nothing that works can cost
much less. "at stops" is the same, but sends as often as a voice wants it: what is rarely done finds its code and data far from
the processor, at both ends.

CPU     of an answer that comes as fast as it is read, a token (us)
delay   from the newest token that the LLM has sent to the Speak that arrives, at 60 tokens a second (ms)
start   from the start of the process to the first Speak (s)
memory  that the process holds while an answer is spoken (MB)
"""

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
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TEXT = (
    "Rain falls because warm air carries water upwards, and because high up it is cold. As the air rises, it spreads and "
    "cools; the water that it holds as vapour gathers on specks of dust. At first the drops are so small that they float. "
    "They bump into each other, join, and grow, until the air can no longer hold them up. Then they fall.\n\n"
    "Not all of them arrive. In a dry summer you can see grey veils below a cloud that never reach the ground: the drops "
    "have dried up on the way. A single degree decides. "
)
TOKENS = [
    part for word in TEXT.split(" ")[:-1] for part in ((f"{word[:4]}", f"{word[4:]} ") if len(word) > 6 else (f"{word} ",))
]
BULK_TIMES = 40  # the text over and over
TOKENS_PER_S = 60.0
AUDIO_BYTES_PER_CHAR = 100  # less than speech has: it costs all systems the same
FRAME_BYTES = 9_600
PREFIX = {
    "id": "chatcmpl-CxYz12AbCdEfGhIjKlMnOpQrStUvW",
    "object": "chat.completion.chunk",
    "created": 1771459200,
    "model": "m",
}


# The LLM and the speech endpoint


class Far:
    """Both, in one process, so that one clock tells when a token was sent and when its Speak came."""

    def __init__(self) -> None:
        self.sent_at = 0.0
        self.first_speak_at = 0.0
        self.delays: list[float] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                lengths = [line for line in head.split("\r\n") if line.startswith("content-length:")]
                await reader.readexactly(int(lengths[0].partition(":")[2]) if lengths else 0)
                path = head.split()[1]
                if path == "/report":
                    body = json.dumps({"delays": self.delays, "first_speak_at": self.first_speak_at}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    self.delays, self.first_speak_at = [], 0.0
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    await self.stream(writer, bulk=path.startswith("/bulk"))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def stream(self, writer: asyncio.StreamWriter, *, bulk: bool) -> None:
        for _ in range(BULK_TIMES if bulk else 1):
            for token in TOKENS:
                choice = {"index": 0, "delta": {"content": token}, "logprobs": None, "finish_reason": None}
                frame = b"data: %b\n\n" % json.dumps(PREFIX | {"choices": [choice]}).encode()
                if not bulk:
                    await asyncio.sleep(1 / TOKENS_PER_S)
                self.sent_at = time.monotonic()
                writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            await writer.drain()
        end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))

    async def speak(self, socket: Any) -> None:
        chars = flushes = 0
        async for message in socket:
            now = time.monotonic()
            match json.loads(message):
                case {"type": "Speak", "text": str(text)}:
                    self.first_speak_at = self.first_speak_at or now
                    self.delays.append(now - self.sent_at)
                    chars += len(text)
                case {"type": "Flush"}:
                    audio = bytes(AUDIO_BYTES_PER_CHAR * chars)
                    for start in range(0, len(audio), FRAME_BYTES):
                        await socket.send(audio[start : start + FRAME_BYTES])
                    await socket.send(json.dumps({"type": "Flushed", "sequence_id": flushes}))
                    chars, flushes = 0, flushes + 1
                case {"type": "Close"}:
                    return


async def serve() -> None:
    from websockets.asyncio.server import serve as serve_speech

    far = Far()
    llm = await asyncio.start_server(far.answer, "127.0.0.1", 0)
    async with llm, serve_speech(far.speak, "127.0.0.1", 0, compression=None) as speech:
        print(llm.sockets[0].getsockname()[1], next(iter(speech.sockets)).getsockname()[1], flush=True)
        await asyncio.Event().wait()


# The systems. Each gives a function that speaks one answer, from the address of an LLM

Speak = Callable[[str], Awaitable[None]]


async def _forward(stack: AsyncExitStack, speech: str, tokens: Callable[[str], AsyncIterator[str]]) -> Speak:
    """Every token a Speak, and one Flush at the end."""
    from websockets.asyncio.client import connect

    socket = await stack.enter_async_context(connect(speech, compression=None))
    flushed = asyncio.Event()

    async def read() -> None:
        async for message in socket:
            if isinstance(message, str) and json.loads(message)["type"] == "Flushed":
                flushed.set()

    reading = asyncio.create_task(read())
    stack.callback(reading.cancel)

    async def speak(llm: str) -> None:
        flushed.clear()
        async for token in tokens(llm):
            await socket.send(json.dumps({"type": "Speak", "text": token}))
        await socket.send('{"type":"Flush"}')
        await flushed.wait()

    return speak


async def forwarder(stack: AsyncExitStack, speech: str, *, at_stops: bool = False) -> Speak:
    import aiohttp
    import msgspec

    session = await stack.enter_async_context(aiohttp.ClientSession())

    async def tokens(llm: str) -> AsyncIterator[str]:
        rest, held = b"", ""
        async with session.post(f"{llm}/chat/completions", json={"model": "m", "stream": True}) as response:
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for one in events:
                    if one != b"data: [DONE]" and (text := msgspec.json.decode(one[6:])["choices"][0]["delta"].get("content")):
                        held += text
                        if not at_stops or text.rstrip()[-1:] in (".", ":", ";", "?", "!"):
                            yield held
                            held = ""
        if held:
            yield held

    return await _forward(stack, speech, tokens)


async def sdk(stack: AsyncExitStack, speech: str) -> Speak:
    import openai

    async def tokens(llm: str) -> AsyncIterator[str]:
        client = openai.AsyncOpenAI(base_url=llm, api_key="none", http_client=openai.DefaultAioHttpClient())
        async with client:
            chunks = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
            async for chunk in chunks:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield text

    return await _forward(stack, speech, tokens)


async def llm2ws(stack: AsyncExitStack, speech: str) -> Speak:
    from llm2ws.audio import AudioFormat
    from llm2ws.links.pool import Endpoint, Pool
    from llm2ws.sources.model import ModelSettings
    from llm2ws.sources.openai import OpenAIChat
    from llm2ws.speech.dialect import Limits, Setup
    from llm2ws.speech.dialects import DIALECTS
    from llm2ws.turn import Conversation

    pool = await stack.enter_async_context(Pool())
    endpoint = Endpoint(DIALECTS["deepgram"](Setup(f"{speech}/v1/speak", "", AudioFormat())), limits=Limits())
    await pool.warm(endpoint)
    conversation = Conversation(pool, [endpoint])

    async def speak(llm: str) -> None:
        async with (
            OpenAIChat(ModelSettings(model="m", base_url=llm)) as chat,
            conversation.turn(chat.answer("?")) as turn,
        ):
            async for _ in turn.audio():
                pass

    return speak


SYSTEMS: dict[str, Callable[[AsyncExitStack, str], Awaitable[Speak]]] = {
    "forwarder": forwarder,
    "at stops": partial(forwarder, at_stops=True),
    "llm2ws": llm2ws,
    "openai SDK": sdk,
}


async def drive(name: str, llm: str, speech: str) -> None:
    """One paced answer, then a fast one: what it costs goes to standard output."""
    async with AsyncExitStack() as stack:
        speak = await SYSTEMS[name](stack, speech)
        await speak(f"{llm}/paced")
        report = await asyncio.to_thread(_report, llm)
        cpu_s = time.process_time()
        await speak(f"{llm}/bulk")
        cpu_us = (time.process_time() - cpu_s) / (len(TOKENS) * BULK_TIMES) * 1e6
        await asyncio.to_thread(_report, llm)
    print(json.dumps(report | {"cpu_us": cpu_us, "memory_mb": _memory_mb()}))


def _report(llm: str) -> dict[str, Any]:
    """What the far side has seen since the last report."""
    with urllib.request.urlopen(f"{llm}/report") as response:
        report: dict[str, Any] = json.load(response)
        return report


def _memory_mb() -> float:
    """That is held now, where the system tells it; else the most that was."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024)


# Measuring


class Measured(NamedTuple):
    cpu_us: float
    delay_ms: list[float]
    start_s: float
    memory_mb: float


def measure(name: str, llm: str, speech: str, cpus: list[int]) -> Measured:
    started_at = time.monotonic()
    command = [sys.executable, "-P", __file__, "--drive", name, llm, speech]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pin(cpus[1:]))
    found = json.loads(done.stdout)
    delay_ms = [1000 * delay for delay in found["delays"]]
    return Measured(found["cpu_us"], delay_ms, found["first_speak_at"] - started_at, found["memory_mb"])


def pin(cpus: list[int]) -> None:
    """The servers and what is measured do not share a CPU, where there are two and the system can be told so."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def _row(name: str, runs: list[Measured]) -> list[float]:
    delays = sorted(delay for run in runs for delay in run.delay_ms)
    middle = [
        statistics.median(values)
        for values in ([r.cpu_us for r in runs], [r.start_s for r in runs], [r.memory_mb for r in runs])
    ]
    return [middle[0], statistics.median(delays), delays[int(0.99 * len(delays))], *middle[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if args.drive:
        asyncio.run(drive(*args.drive))
        return
    if args.serve:
        pin(cpus[:1])
        asyncio.run(serve())
        return
    found: dict[str, list[Measured]] = {name: [] for name in SYSTEMS}
    with subprocess.Popen([sys.executable, "-P", __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            llm_port, speech_port = server.stdout.readline().split()
            for n in range(args.runs + 1):  # the first round warms up and is not counted
                for name, runs in found.items():
                    measured = measure(name, f"http://127.0.0.1:{llm_port}", f"ws://127.0.0.1:{speech_port}", cpus)
                    if n:
                        runs.append(measured)
        finally:
            server.kill()
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, median of {args.runs}")
    rows = {name: _row(name, runs) for name, runs in found.items()}
    base = rows["forwarder"]
    print(f"{'':12}" + "".join(f"{title:>16}" for title in ("CPU us/token", "delay p50 ms", "p99 ms", "start s", "memory MB")))
    for name, row in rows.items():
        print(f"{name:12}" + "".join(f"{f'{value:.2f} ({value / of:.2f})':>16}" for value, of in zip(row, base, strict=True)))


if __name__ == "__main__":
    main()
