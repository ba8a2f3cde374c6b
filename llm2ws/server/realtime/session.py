"""OpenAI's Realtime API over a WebSocket: text in, speech and its transcript out.

https://platform.openai.com/docs/api-reference/realtime. Audio input is not served. The conversation is kept for as long as the
connection lasts, and holds of each answer what was heard of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMessage, WSMsgType, hdrs, web
from msgspec import Struct

from ...errors import Llm2wsError, SlowConsumerError
from ...speech.utterance.pacing import Pace
from ...turn import Conversation
from ..daemon import CLIENT, DAEMON, SERVICE, Face, Problem, decoded, json_text, problem_of
from ..sending import taken
from .events import (
    Asked,
    Cancel,
    Create,
    Head,
    ItemCreate,
    ItemIn,
    ItemNamed,
    ItemTruncate,
    SessionUpdate,
    Wanted,
)
from .history import History, Item, item_of, messages
from .response import CANCELLED, Response, new_id

__all__ = ["FACE", "Session"]

SUBPROTOCOL = "realtime"
PING_S = 20.0  # a client that does not answer a ping in half of that is gone


async def _realtime(request: web.Request) -> web.WebSocketResponse:
    offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
    # The rest of what is offered holds the key, and aiohttp would log it where nothing fits.
    if offered and SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
        raise Problem(400, f"the subprotocol {SUBPROTOCOL} is missing: offer it as well", code="invalid_subprotocol")
    ws = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,), heartbeat=PING_S, compress=False, max_msg_size=request[CLIENT].limits.message_bytes
    )
    if not ws.can_prepare(request):
        raise Problem(400, "this is a WebSocket: connect to it with ws:// or wss://", code="websocket_required")
    service, model = request[SERVICE], request.query.get("model", "") or request[SERVICE].llms[0]
    service.relays(model)  # a model that is not there is an answer with 404
    await ws.prepare(request)
    await Session(request, ws, model).run()
    return ws


FACE = Face([web.get("/v1/realtime", _realtime)])


class Session:
    """One connection: what it is set to, its conversation, and the response in progress."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, model: str) -> None:
        self.request = request
        self.client = request[CLIENT]
        self.service = request[SERVICE]
        self.history = History(self.client.limits.text_chars)
        self.conversation_id = new_id("conv")
        self._ws = ws
        self._daemon = request.app[DAEMON]
        self._id = new_id("sess")
        self._wanted = Wanted(model=model)
        self._events = itertools.count(1)
        self._voice: tuple[object, Conversation] | None = None  # what the last answer was spoken with
        self._response: Response | None = None
        self._responding: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the client leaves or the daemon stops."""
        await self.send("session.created", session=self._wanted.session(self._id))
        async with asyncio.TaskGroup() as self._tasks:
            leaving = self._tasks.create_task(self._leave())
            async for message in self._ws:
                await self._take(message)
            leaving.cancel()
            if self._responding is not None:
                self._responding.cancel()

    async def _leave(self) -> None:
        """When the daemon stops, let the response in progress end, and go."""
        await self._daemon.draining.wait()
        if self._responding is not None:
            await asyncio.wait({self._responding})
        await self._ws.close(code=1001, message=b"the daemon stops: connect to another one, or later")

    async def send(self, kind: str, **fields: object) -> None:
        """Send an event. A client that has gone, or takes nothing, is noticed by whoever reads."""
        if self._ws.closed:
            return
        event = json_text({"type": kind, "event_id": f"event_{next(self._events)}", **fields})
        try:
            await taken(self._ws.send_str(event))
        except ConnectionError:
            pass
        except SlowConsumerError:
            if self.request.transport is not None:
                self.request.transport.abort()

    async def _take(self, message: WSMessage) -> None:
        """Do what an event says. What is wrong with it is an `error` event, and the connection stays."""
        event_id = None
        try:
            self.client.message()
            if message.type is not WSMsgType.TEXT:
                raise Problem(400, "a binary message: events are JSON in text messages", code="invalid_message")
            head = decoded(message.data, Head)
            event_id = head.event_id
            kind, do = _kind(head.type)
            await do(self, _decoded(message.data, kind))
        except (Problem, Llm2wsError) as exc:
            problem = exc if isinstance(exc, Problem) else problem_of(exc)
            await self.send("error", error={**problem.error, "event_id": event_id})

    # What clients may do

    async def update(self, event: SessionUpdate) -> None:
        wanted = self._changed(event.session, "session")
        self._conversation(wanted)  # an unknown voice is an error now, and not when it is to speak
        self._wanted = wanted
        await self.send("session.updated", session=wanted.session(self._id))

    def _changed(self, asked: Asked, where: str) -> Wanted:
        """What answers are to be. Raises Problem for what cannot be."""
        wanted = self._wanted.changed(asked)
        if wanted.tools and not self.service.takes_tools(wanted.model):
            what = f"tools: the model {wanted.model} is not asked with them here: leave them out"
            raise Problem(400, what, param=f"{where}.tools", code="not_served")
        return wanted

    async def create_item(self, event: ItemCreate) -> None:
        item = item_of(event.item, new_id("item"))
        previous = self.history.add(item, event.previous_item_id)
        await self.send("conversation.item.added", previous_item_id=previous, item=item.shown)
        await self.send("conversation.item.done", previous_item_id=previous, item=item.shown)

    async def retrieve_item(self, event: ItemNamed) -> None:
        await self.send("conversation.item.retrieved", item=self.history[event.item_id].shown)

    async def delete_item(self, event: ItemNamed) -> None:
        del self.history[event.item_id]
        await self.send("conversation.item.deleted", item_id=event.item_id)

    async def truncate_item(self, event: ItemTruncate) -> None:
        item = self.history[event.item_id]
        heard_s = event.audio_end_ms / 1000
        if self._response is not None and self._response.message is item:
            self._response.truncate(heard_s)
        else:
            item.cut(heard_s)
        await self.send("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=event.audio_end_ms)

    async def create_response(self, event: Create) -> None:
        if self._response is not None:
            what = f"a response is in progress: {self._response.id}: wait for its response.done, or cancel it"
            raise Problem(400, what, code="conversation_already_has_active_response")
        if self._daemon.draining.is_set():
            raise Problem(503, "the daemon stops: connect again", code="draining", kind="server_error")
        asked = event.response or None
        wanted = self._wanted if asked is None else self._changed(asked, "response")
        given = None if asked is None or asked.input is None else [self._item(item) for item in asked.input]
        prompt = messages(self.history if given is None else given, wanted.instructions)
        if not prompt:
            raise Problem(400, "there is nothing to answer: create an item first", code="invalid_value")
        self._response = Response(
            self,
            wanted,
            prompt,
            conversation=self._conversation(wanted) if wanted.spoken else None,
            metadata=asked.metadata if asked else None,
            apart=asked is not None and asked.conversation == "none",
        )
        self._responding = self._tasks.create_task(self._respond(self._response))

    def _item(self, given: ItemIn) -> Item:
        """An item of the prompt for one response."""
        if given.type == "item_reference":
            return self.history[given.id or ""]
        return item_of(given, new_id("item"))

    async def _respond(self, response: Response) -> None:
        try:
            await response.run()
        finally:
            self._response = self._responding = None

    async def cancel(self, event: Cancel) -> None:
        response, responding = self._response, self._responding
        if response is None or responding is None or event.response_id not in (None, response.id):
            raise Problem(400, "no such response is in progress: there is nothing to cancel", code="response_cancel_not_active")
        await response.stop(CANCELLED)
        await asyncio.wait({responding})  # so that a response.create right behind it is in time

    def _conversation(self, wanted: Wanted) -> Conversation:
        """The same as before where nothing has changed: it has its connection already."""
        key = (wanted.voice, wanted.format, wanted.speed)
        if self._voice is None or self._voice[0] != key:
            made = self.service.conversation(
                voice=wanted.voice, format=wanted.audio_format, speed=wanted.speed, pace=Pace.LISTENER
            )
            self._voice = (key, made)
        return self._voice[1]


_Do = Callable[[Session, Any], Awaitable[None]]

_SERVED: dict[str, tuple[type[Struct], _Do]] = {
    "session.update": (SessionUpdate, Session.update),
    "conversation.item.create": (ItemCreate, Session.create_item),
    "conversation.item.retrieve": (ItemNamed, Session.retrieve_item),
    "conversation.item.delete": (ItemNamed, Session.delete_item),
    "conversation.item.truncate": (ItemTruncate, Session.truncate_item),
    "response.create": (Create, Session.create_response),
    "response.cancel": (Cancel, Session.cancel),
}
_NOT_SERVED = {
    "input_audio_buffer.": "audio input is not served: send text with conversation.item.create",
    "output_audio_buffer.": "it is for WebRTC: send response.cancel, then conversation.item.truncate",
}


def _kind(name: str) -> tuple[type[Struct], _Do]:
    if name in _SERVED:
        return _SERVED[name]
    for start, what in _NOT_SERVED.items():
        if name.startswith(start):
            raise Problem(400, f"type: {what}", param="type", code="not_served")
    raise Problem(400, f"type: not served: send one of {', '.join(_SERVED)}", param="type", code="invalid_value")


def _decoded(data: str, kind: type[Struct]) -> Struct:
    try:
        return decoded(data, kind)
    except Problem as exc:
        if "unknown field" in exc.message:
            raise Problem(
                400, f"{exc.message}, which is not served: leave it out", param=exc.param, code="unknown_parameter"
            ) from None
        raise
