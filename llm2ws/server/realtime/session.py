"""OpenAI's Realtime API over a WebSocket: text in, speech and its transcript out.

https://platform.openai.com/docs/api-reference/realtime. Audio input is not served. The conversation lasts as long as the
connection, and holds of each answer what was heard of it.
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
from ..api import Api, Route
from ..body import decode_json
from ..daemon import CLIENT, DAEMON, SERVICE
from ..problems import Problem, logged_problem
from ..sending import json_message, send_in_time
from .events import (
    ConversationItem,
    EventHead,
    ItemById,
    ItemCreate,
    ItemTruncate,
    ResponseCancel,
    ResponseCreate,
    ResponseParams,
    ResponseSettings,
    SessionUpdate,
)
from .history import History, Item, item_of, messages
from .response import CANCELLED, Response, new_id

__all__ = ["API", "RealtimeSession"]

SUBPROTOCOL = "realtime"
PING_S = 20.0  # A client that does not answer a ping within half of it is gone.


async def _realtime(request: web.Request) -> web.WebSocketResponse:
    offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
    # Without this, aiohttp would log the other subprotocols, of which one holds the key.
    if offered and SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
        raise Problem(400, f"the subprotocol {SUBPROTOCOL} is missing: offer it as well", code="invalid_subprotocol")
    ws = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,), heartbeat=PING_S, compress=False, max_msg_size=request[CLIENT].limits.message_bytes
    )
    if not ws.can_prepare(request):
        raise Problem(400, "this is a WebSocket: connect to it with ws:// or wss://", code="websocket_required")
    service, model = request[SERVICE], request.query.get("model", "") or request[SERVICE].llms[0]
    service.relays(model)  # Raises UnknownName, which is answered with 404, for a model that does not exist.
    await ws.prepare(request)
    await RealtimeSession(request, ws, model).run()
    return ws


API = Api([Route("GET", "/v1/realtime", _realtime)])


class RealtimeSession:
    """The session of one connection: its settings, its conversation, and the response in progress."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, model: str) -> None:
        self._request = request
        self._client = request[CLIENT]
        self._service = request[SERVICE]
        self._history = History(new_id("conv"), self._client.limits.text_chars)
        self._ws = ws
        self._daemon = request.app[DAEMON]
        self._id = new_id("sess")
        self._settings = ResponseSettings(model=model)
        self._event_numbers = itertools.count(1)
        self._spoken_with: tuple[object, Conversation] | None = None  # The last conversation, by the settings it depends on.
        self._tasks = asyncio.TaskGroup()
        self._response: Response | None = None
        self._responding: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the client leaves or the daemon stops."""
        await self.send("session.created", session=self._settings.session(self._id))
        async with self._tasks:
            leaving = self._tasks.create_task(self._leave())
            async for message in self._ws:
                await self._take(message)
            leaving.cancel()
            if self._responding is not None:
                self._responding.cancel()

    async def _leave(self) -> None:
        """Close the connection when the daemon stops and the response in progress has ended."""
        await self._daemon.draining.wait()
        if self._responding is not None:
            await asyncio.wait({self._responding})
        await self._ws.close(code=1001, message=b"the daemon stops: connect to another one, or later")

    async def send(self, kind: str, **fields: object) -> None:
        """Send an event. The reader notices a client that has gone or reads nothing."""
        if self._ws.closed:
            return
        event = json_message({"type": kind, "event_id": f"event_{next(self._event_numbers)}", **fields})
        try:
            await send_in_time(self._ws.send_str(event))
        except ConnectionError:
            pass
        except SlowConsumerError:
            if self._request.transport is not None:
                self._request.transport.abort()

    async def _take(self, message: WSMessage) -> None:
        """Carry out an event. What is wrong with it is answered with an `error` event, and the connection stays open."""
        event_id = None
        try:
            self._client.message()
            if message.type is not WSMsgType.TEXT:
                raise Problem(400, "a binary message: events are JSON in text messages", code="invalid_message")
            head = decode_json(message.data, EventHead)
            event_id = head.event_id
            kind, carry_out = _handler(head.type)
            await carry_out(self, _decode_event(message.data, kind))
        except (Problem, Llm2wsError) as exc:
            problem = exc if isinstance(exc, Problem) else logged_problem(exc)
            await self.send("error", error={**problem.error, "event_id": event_id})

    # The events of a client

    async def update(self, event: SessionUpdate) -> None:
        settings = self._changed(event.session, "session")
        self._conversation(settings)  # Raises for an unknown voice now, rather than when it is to speak.
        self._settings = settings
        await self.send("session.updated", session=settings.session(self._id))

    def _changed(self, params: ResponseParams, where: str) -> ResponseSettings:
        """Return the settings with those of `params`, an object in the field `where`. Raises Problem for what is not served."""
        settings = self._settings.changed(params)
        if settings.tools and not self._service.takes_tools(settings.model):
            message = f"tools: the model {settings.model} is not asked with them here: leave them out"
            raise Problem(400, message, param=f"{where}.tools", code="not_served")
        return settings

    async def create_item(self, event: ItemCreate) -> None:
        item = item_of(event.item, new_id("item"))
        previous = self._history.add(item, event.previous_item_id)
        await self.send("conversation.item.added", previous_item_id=previous, item=item.shown)
        await self.send("conversation.item.done", previous_item_id=previous, item=item.shown)

    async def retrieve_item(self, event: ItemById) -> None:
        await self.send("conversation.item.retrieved", item=self._history[event.item_id].shown)

    async def delete_item(self, event: ItemById) -> None:
        del self._history[event.item_id]
        await self.send("conversation.item.deleted", item_id=event.item_id)

    async def truncate_item(self, event: ItemTruncate) -> None:
        item = self._history[event.item_id]
        heard_s = event.audio_end_ms / 1000
        if self._response is not None and self._response.message is item:
            self._response.truncate(item, heard_s)
        else:
            item.cut(heard_s)
        await self.send("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=event.audio_end_ms)

    async def create_response(self, event: ResponseCreate) -> None:
        if self._response is not None:
            what = f"a response is in progress: {self._response.id}: wait for its response.done, or cancel it"
            raise Problem(400, what, code="conversation_already_has_active_response")
        if self._daemon.draining.is_set():
            raise Problem(503, "the daemon stops: connect again", code="draining", kind="server_error")
        params = event.response or None
        settings = self._settings if params is None else self._changed(params, "response")
        items = self._history if params is None or params.input is None else [self._item(item) for item in params.input]
        prompt = messages(items, settings.instructions)
        if not prompt:
            raise Problem(400, "there is nothing to answer: create an item first", code="invalid_value")
        self._response = Response(
            self._request,
            self.send,
            settings,
            prompt,
            conversation=self._conversation(settings) if settings.spoken else None,
            history=None if params is not None and params.conversation == "none" else self._history,
            metadata=params.metadata if params else None,
        )
        self._responding = self._tasks.create_task(self._respond(self._response))

    def _item(self, given: ConversationItem) -> Item:
        """Return an item of the prompt for one response."""
        if given.type == "item_reference":
            return self._history[given.id or ""]
        return item_of(given, new_id("item"))

    async def _respond(self, response: Response) -> None:
        try:
            await response.run()
        finally:
            self._response = self._responding = None

    async def cancel(self, event: ResponseCancel) -> None:
        response, responding = self._response, self._responding
        if response is None or responding is None or event.response_id not in (None, response.id):
            raise Problem(400, "no such response is in progress: there is nothing to cancel", code="response_cancel_not_active")
        await response.stop(CANCELLED)
        await asyncio.wait({responding})  # So that a response.create right behind it is in time.

    def _conversation(self, settings: ResponseSettings) -> Conversation:
        """Return the last response's conversation, which has a connection already, or a new one when its settings differ."""
        key = (settings.voice, settings.format, settings.speed)
        if self._spoken_with is None or self._spoken_with[0] != key:
            conversation = self._service.conversation(
                voice=settings.voice,
                format=settings.audio_format,
                speed=settings.speed,
                pace=Pace.LISTENER,
                client=self._client.name,
            )
            self._spoken_with = (key, conversation)
        return self._spoken_with[1]


_Handler = Callable[[RealtimeSession, Any], Awaitable[None]]

_SERVED: dict[str, tuple[type[Struct], _Handler]] = {
    "session.update": (SessionUpdate, RealtimeSession.update),
    "conversation.item.create": (ItemCreate, RealtimeSession.create_item),
    "conversation.item.retrieve": (ItemById, RealtimeSession.retrieve_item),
    "conversation.item.delete": (ItemById, RealtimeSession.delete_item),
    "conversation.item.truncate": (ItemTruncate, RealtimeSession.truncate_item),
    "response.create": (ResponseCreate, RealtimeSession.create_response),
    "response.cancel": (ResponseCancel, RealtimeSession.cancel),
}
_NOT_SERVED = {
    "input_audio_buffer.": "audio input is not served: send text with conversation.item.create",
    "output_audio_buffer.": "it is for WebRTC: send response.cancel, then conversation.item.truncate",
}


def _handler(name: str) -> tuple[type[Struct], _Handler]:
    """Return the type of an event and what carries it out. Raises Problem for an event that is not served."""
    if name in _SERVED:
        return _SERVED[name]
    for start, what in _NOT_SERVED.items():
        if name.startswith(start):
            raise Problem(400, f"type: {what}", param="type", code="not_served")
    raise Problem(400, f"type: not served: send one of {', '.join(_SERVED)}", param="type", code="invalid_value")


def _decode_event(data: str, kind: type[Struct]) -> Struct:
    try:
        return decode_json(data, kind)
    except Problem as exc:
        if "unknown field" in exc.message:
            raise Problem(
                400, f"{exc.message}, which is not served: leave it out", param=exc.param, code="unknown_parameter"
            ) from None
        raise
