"""A response of the Realtime API: its events, in the order in which OpenAI sends them."""

from __future__ import annotations

import asyncio
import secrets
from binascii import b2a_base64
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, assert_never

from aiohttp import web

from ...errors import Llm2wsError
from ...sources.aside import Aside
from ...speech.utterance.heard import Heard, Spoken
from ...turn import Audio, Conversation, Done, Notice, Said
from ..client_turn import ClientTurn, StopReason, speak_to_client
from ..daemon import CLIENT, DAEMON, SERVICE
from ..problems import Problem, logged_problem
from .events import ResponseSettings
from .history import History, Item

__all__ = ["CANCELLED", "Response", "new_id"]

CANCELLED = "cancelled"  # The reason of a response that its client stopped.


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


class _Ending(NamedTuple):
    status: str
    details: Mapping[str, object] | None = None


class Response:
    """An answer in progress, as items of the conversation: a message, function calls, or both.

    `send`: called with the type and the fields of each event. `conversation`: speaks the answer; None for an answer in text.
    `history`: gets the answer's items; None when the answer is no part of the conversation.
    """

    def __init__(
        self,
        request: web.Request,
        send: Callable[..., Awaitable[None]],
        settings: ResponseSettings,
        prompt: list[Mapping[str, object]],
        *,
        conversation: Conversation | None,
        history: History | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.id = new_id("resp")
        self.message: Item | None = None  # The message that is being spoken or written.
        self._request = request
        self._send = send
        self._settings = settings
        self._prompt = prompt
        self._conversation = conversation
        self._history = history
        self._metadata = metadata
        self._output: list[Item] = []
        self._call: Item | None = None  # The function call that is being written.
        self._call_index: object = None
        self._held: list[Aside] = []  # Function calls, until the message before them has been spoken.
        self._words: list[str] = []  # The text of `message`.
        self._client_turn: ClientTurn | None = None
        self._writing: asyncio.Timeout | None = None  # When it expires, the answer in text ends.
        self._complete = False  # The answer is made; its last events are being sent.
        self._reason: str | None = None  # Why the response was stopped: CANCELLED, or a StopReason.
        self._heard: asyncio.Future[Heard] | None = None  # What was heard before the client or the daemon stopped it.
        self._cut_s: float | None = None  # What the client says it has heard, when it says so before the end.
        self._finish: str | None = None
        self._usage: dict[str, int] | None = None

    async def run(self) -> None:
        """Make the answer, and send its events from response.created to response.done."""
        await self._send("response.created", response=self._shown(_Ending("in_progress")))
        settings = self._settings
        problem = None
        try:
            source = self._request[SERVICE].answer(settings.model, self._prompt, extra=settings.parameters())
            await (self._write(source) if self._conversation is None else self._speak(source, self._conversation))
        except Problem as exc:
            problem = exc
        except Llm2wsError as exc:
            problem = logged_problem(exc)
        self._complete = True
        ending = self._ending(problem)
        await self._close_message(ending.status)
        for call in self._held:
            await self._function_call(call)
        await self._close_call(ending.status)
        await self._send("response.done", response=self._shown(ending))

    async def stop(self, reason: str = StopReason.SHUTDOWN) -> None:
        """End the answer now, unless it is complete. Its last events are still to come."""
        if self._complete:
            return
        self._reason = self._reason or reason
        if self._client_turn is not None:
            self._heard = self._heard or asyncio.get_running_loop().create_future()
            heard = await self._client_turn.turn.interrupt()
            if not self._heard.done():
                self._heard.set_result(heard)
        elif self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())

    def truncate(self, message: Item, heard_s: float) -> None:
        """Cut the message to the `heard_s` seconds that the client has heard. Raises Problem for more than there are."""
        if self._client_turn is not None:
            message.spoken = self._client_turn.turn.spoken
        message.cut(heard_s)
        self._cut_s = heard_s

    # Speech

    async def _speak(self, source: AsyncGenerator[str | Aside, None], conversation: Conversation) -> None:
        async with speak_to_client(self._request, conversation, source, face="realtime") as self._client_turn:
            if self._reason is not None:  # It was stopped before it began.
                await self.stop(self._reason)
            async with aclosing(self._client_turn.events()) as events:
                async for event in events:
                    match event:
                        case Said(text=text):
                            await self._text(text, "response.output_audio_transcript.delta")
                        case Audio(data=data):
                            await self._delta("response.output_audio.delta", b2a_base64(data, newline=False).decode())
                        case Aside():
                            await self._aside(event)
                        case Done(spoken=spoken):
                            if spoken.text.strip() and self.message is None and not self._output:
                                await self._open_message()  # Nothing of it could be spoken.
                        case Notice():
                            pass
                        case _:
                            assert_never(event)

    # Text

    async def _write(self, source: AsyncGenerator[str | Aside, None]) -> None:
        turns = self._request.app[DAEMON].turns
        turns.add(self.stop)
        try:
            async with aclosing(source):
                await self._write_until_stopped(source)
        finally:
            turns.discard(self.stop)

    async def _write_until_stopped(self, source: AsyncGenerator[str | Aside, None]) -> None:
        left = self._request[CLIENT].limits.text_chars
        try:
            async with asyncio.timeout(0.0 if self._reason else None) as self._writing:
                async for item in source:
                    if isinstance(item, Aside):
                        await self._aside(item)
                        continue
                    left -= len(item)
                    if left < 0:
                        self._reason = StopReason.TEXT
                        break
                    if item:
                        await self._text(item, "response.output_text.delta")
        except TimeoutError:
            if self._reason is None:
                raise
        finally:
            self._writing = None

    # Items

    async def _aside(self, aside: Aside) -> None:
        match aside.kind:
            case "tool_call" if self._client_turn is not None and self._client_turn.turn.stats.source_chars:
                self._held.append(aside)
            case "tool_call":
                await self._close_message("completed")
                await self._function_call(aside)
            case "refusal":
                self._finish = "content_filter"
            case "finish":
                self._finish = self._finish or str(aside.data.get("reason"))
                self._usage = _usage(aside.data.get("usage"))

    async def _text(self, text: str, kind: str) -> None:
        await self._delta(kind, text)
        self._words.append(text)

    async def _delta(self, kind: str, delta: str) -> None:
        message = self.message or await self._open_message()
        await self._send(kind, **self._place(message), delta=delta)

    async def _open(self, item: Item) -> None:
        self._output.append(item)
        await self._send("response.output_item.added", **self._at(item), item=item.shown)
        if self._history is not None:
            previous = self._history.add(item)
            await self._send("conversation.item.added", previous_item_id=previous, item=item.shown)

    async def _close(self, item: Item, status: str) -> None:
        item.shown["status"] = "completed" if status == "completed" else "incomplete"
        if self._history is not None and item in self._history:
            await self._send("conversation.item.done", item=item.shown)
        await self._send("response.output_item.done", **self._at(item), item=item.shown)

    async def _open_message(self) -> Item:
        if not self._settings.spoken:
            await self._close_call("completed")
        self.message = message = Item({**_new_item("message"), "role": "assistant", "content": []})
        self._words = []
        await self._open(message)
        await self._send("response.content_part.added", **self._place(message), part=self._part())
        return message

    async def _close_message(self, status: str) -> None:
        message, text = self.message, "".join(self._words)
        if message is None:
            return
        if self._client_turn is None:
            message.text = text
            message.shown["content"] = [{"type": "output_text", "text": text}]
            await self._send("response.output_text.done", **self._place(message), text=text)
        else:
            message.shown["content"] = [{"type": "output_audio", "transcript": text}]
            heard = await self._heard if self._heard is not None else None
            self._remember(message, self._client_turn.turn.spoken, heard)
            await self._send("response.output_audio.done", **self._place(message))
            await self._send("response.output_audio_transcript.done", **self._place(message), transcript=text)
        await self._send("response.content_part.done", **self._place(message), part=self._part())
        self.message = None
        await self._close(message, status)

    def _remember(self, message: Item, spoken: Spoken, heard: Heard | None) -> None:
        """Keep of the message what was heard: that is what the model reads of it later."""
        message.spoken = spoken
        if self._cut_s is not None:
            message.cut(self._cut_s)
        elif heard is not None:
            message.text = heard.heard
        else:
            message.text = spoken.text if spoken.complete else spoken.split(spoken.seconds).heard

    async def _function_call(self, aside: Aside) -> None:
        """Send a piece of a function call; the first piece has the name."""
        data = aside.data
        if self._call is None or data.get("index") != self._call_index:
            await self._close_call("completed")
            self._call_index = data.get("index")
            named = {"call_id": data.get("id") or new_id("call"), "name": data.get("name") or "", "arguments": ""}
            self._call = Item(_new_item("function_call") | named)
            await self._open(self._call)
        if arguments := data.get("arguments"):
            shown = self._call.shown
            shown["arguments"] += str(arguments)
            place = self._at(self._call) | {"item_id": self._call.id, "call_id": shown["call_id"]}
            await self._send("response.function_call_arguments.delta", **place, delta=str(arguments))

    async def _close_call(self, status: str) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        named = {name: call.shown[name] for name in ("call_id", "name", "arguments")}
        await self._send("response.function_call_arguments.done", **self._at(call), item_id=call.id, **named)
        await self._close(call, status)

    # The fields of events

    def _at(self, item: Item) -> dict[str, Any]:
        return {"response_id": self.id, "output_index": self._output.index(item)}

    def _place(self, message: Item) -> dict[str, Any]:
        """Return the place of a message's only content part."""
        return {**self._at(message), "item_id": message.id, "content_index": 0}

    def _part(self) -> dict[str, str]:
        text = "".join(self._words)
        return {"type": "audio", "transcript": text} if self._settings.spoken else {"type": "text", "text": text}

    def _ending(self, problem: Problem | None) -> _Ending:
        if problem is None and StopReason.SHUTDOWN in (self._reason, self._stop_reason):
            problem = Problem(503, "the daemon stops: connect again", code="draining", kind="server_error")
        if problem is not None:
            error = {"type": problem.kind, "code": problem.code, "message": problem.message}
            return _Ending("failed", {"type": "failed", "error": error})
        if self._reason == CANCELLED:
            return _Ending("cancelled", {"type": "cancelled", "reason": "client_cancelled"})
        reason = "max_output_tokens" if self._reason or self._stop_reason else _REASONS.get(self._finish or "")
        if reason is not None:
            return _Ending("incomplete", {"type": "incomplete", "reason": reason})
        return _Ending("completed", {"type": "completed"})

    @property
    def _stop_reason(self) -> StopReason | None:
        return None if self._client_turn is None else self._client_turn.stop_reason

    def _shown(self, ending: _Ending) -> dict[str, object]:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": ending.status,
            "status_details": ending.details,
            "output": [item.shown for item in self._output],
            "conversation_id": None if self._history is None else self._history.id,
            "metadata": self._metadata,
            "usage": self._usage,
            **self._settings.shown(),
        }


# Why an answer is not complete, by the LLM's reason for ending it.
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _new_item(kind: str) -> dict[str, Any]:
    return {"id": new_id("item"), "object": "realtime.item", "type": kind, "status": "in_progress"}


def _usage(counts: object) -> dict[str, int] | None:
    """Return the LLM's tokens in the API's words; None where its server does not count them. Speech has no tokens."""
    if not isinstance(counts, Mapping):
        return None
    asked, written = (n if isinstance(n := counts.get(f"{kind}_tokens"), int) else 0 for kind in ("prompt", "completion"))
    return {"input_tokens": asked, "output_tokens": written, "total_tokens": asked + written}
