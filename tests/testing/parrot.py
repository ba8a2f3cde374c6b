from __future__ import annotations

from functools import partial
from http import HTTPStatus

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from llm2ws.audio import AudioFormat
from llm2ws.testing import Coding
from llm2ws.testing.connection import EndpointConnection, SpeechQueue, TimedChunk
from llm2ws.testing.endpoint import Answer, FaultyEndpoint

FORMAT = AudioFormat(sample_rate_hz=8_000)


class Parrot(FaultyEndpoint[str]):
    """Says what it is sent, then "end"; "stop" stops it, and "bug" is one."""

    def admit(self, request: Request) -> Answer | None:
        return None if request.path == "/" else self.refusal(HTTPStatus.NOT_FOUND)

    def refusal(self, status: HTTPStatus) -> Answer:
        return Answer(status, status.phrase, {"x-why": status.name})

    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        await _Connection(self, ws, index, FORMAT).run()


class _Connection(EndpointConnection[str]):
    def parse(self, message: str | bytes) -> str:
        return str(message)

    async def on_open(self) -> None:
        self.chunks: list[TimedChunk] = []
        self.voice = SpeechQueue(self, self._wrap)

    def _wrap(self, chunk: TimedChunk) -> list[str | bytes]:
        self.chunks.append(chunk)
        return [chunk.data]

    async def receive(self, message: str) -> None:
        match message:
            case "bug":
                raise ZeroDivisionError("a bug of the server")
            case "stop":
                self.voice.stop()
                await self.send("stopped")
            case "chars":
                shown = (f"{char.text} {char.start_s:.3f}" for chunk in self.chunks for char in chunk.chars)
                await self.send("\n".join(shown))
            case _:
                self.record_text(message)
                self.voice.say(message)
                self.voice.then(partial(self.send_reply, "end"))


def dial(server: Parrot, path: str = "/", **options: object) -> connect:
    return connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, proxy=None, **options)  # type: ignore[arg-type]


def parrot(**options: object) -> Parrot:
    return Parrot(**{"coding": Coding(char_samples=80, lead_in_s=0.0, word_pause_s=0.01), **options})  # type: ignore[arg-type]
