"""A client of the Realtime API: OpenAI's SDK, whose events are held against the SDK's types."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import openai
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from tests.server.conftest import Running

EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


SPOKEN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


class Client:
    """The SDK's connection, whose events are also held against the SDK's types strictly."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.sdk = connection

    async def next(self) -> Any:
        raw = await self.sdk.recv_bytes()
        EVENT.validate_json(raw)
        return self.sdk.parse_event(raw)

    async def until(self, kind: str) -> list[Any]:
        """Events up to the first of a kind."""
        events = [await self.next()]
        while events[-1].type != kind:
            events.append(await self.next())
        return events

    async def only(self, kind: str) -> Any:
        """The next event, which is of a kind."""
        event = await self.next()
        assert event.type == kind, event
        return event

    async def error(self) -> Any:
        return (await self.only("error")).error

    async def user(self, text: str) -> str:
        content: Any = [{"type": "input_text", "text": text}]
        await self.sdk.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await self.only("conversation.item.added")
        return str((await self.only("conversation.item.done")).item.id)

    async def ask(self, text: str, **response: Any) -> list[Any]:
        await self.user(text)
        await self.sdk.response.create(**({"response": response} if response else {}))  # type: ignore[arg-type]
        return await self.until("response.done")

    async def set(self, **session: Any) -> Any:
        wanted: Any = {"type": "realtime", **session}
        await self.sdk.session.update(session=wanted)
        return (await self.only("session.updated")).session


@asynccontextmanager
async def connected(url: str, key: str = "none", model: str = "scripted") -> AsyncIterator[Client]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client, client.realtime.connect(model=model) as sdk:
        connection = Client(sdk)
        await connection.only("session.created")
        yield connection


def kinds(events: list[Any]) -> list[str]:
    """Their types, each of a row once; deltas of text and of audio take turns, and here are one of each."""
    types = [kind for kind, _ in groupby(event.type for event in events)]
    return list(dict.fromkeys(types))


def audio(events: list[Any]) -> bytes:
    return b"".join(b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")


def transcript(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_audio_transcript.delta")


def asked(running: Running, n: int = -1) -> list[dict[str, Any]]:
    """What the LLM was asked."""
    messages: list[dict[str, Any]] = running.llm.requests[n].body["messages"]
    return messages


MESSAGE = {"type": "message", "role": "user"}
