from __future__ import annotations

import json

from websockets.asyncio.client import ClientConnection, connect

from llm2ws.testing import Coding, FaultySpeech

QUICK = Coding(char_samples=4, word_pause_s=0.002, sentence_pause_s=0.004, lead_in_s=0.002)


def dial(speech: FaultySpeech, port: int | None = None, **options: object) -> connect:
    url = f"ws://127.0.0.1:{port or speech.port}/v1/speak"
    return connect(url, compression=None, proxy=None, **options)  # type: ignore[arg-type]


async def say(ws: ClientConnection, text: str, *more: str) -> None:
    await ws.send(json.dumps({"type": "Speak", "text": text}))
    for kind in more:
        await ws.send(json.dumps({"type": kind}))


async def hear(ws: ClientConnection, until: str = "Flushed") -> tuple[bytes, list[str]]:
    """Audio and the types of messages up to one of a type, itself included."""
    audio, kinds = b"", list[str]()
    while until not in kinds:
        message = await ws.recv()
        if isinstance(message, bytes):
            audio += message
        else:
            kinds.append(json.loads(message)["type"])
    return audio, kinds
