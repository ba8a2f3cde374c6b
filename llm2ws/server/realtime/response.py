"""One answer on its way to the client, in the order of events in which OpenAI sends it."""

from __future__ import annotations

import asyncio
import secrets
from binascii import b2a_base64
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from ...errors import Llm2wsError
from ...sources.aside import Aside
from ...speech.utterance.heard import Heard, Spoken
from ...turn import Audio, Conversation, Done, Notice, Said
from ..client_turn import Speaking, Stopped, speaking
from ..daemon import DAEMON, Problem, problem_of
from .events import Wanted
from .history import Item

if TYPE_CHECKING:
    from .session import Session

__all__ = ["CANCELLED", "Response", "new_id"]

CANCELLED = "cancelled"  # why a response was stopped: its client did it


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


class _Ending(NamedTuple):
    status: str
    details: Mapping[str, object] | None = None


class Response:
    """An answer on its way to the client, as items of the conversation: a message, function calls, or both."""

    def __init__(
        self,
        session: Session,
        wanted: Wanted,
        prompt: list[Mapping[str, object]],
        *,
        conversation: Conversation | None,
        metadata: Mapping[str, str] | None,
        apart: bool,
    ) -> None:
        self.id = new_id("resp")
        self.message: Item | None = None  # the one that is being spoken or written
        self._session = session
        self._wanted = wanted
        self._prompt = prompt
        self._conversation = conversation
        self._metadata = metadata
        self._apart = apart  # from the conversation, of which its items are no part
        self._output: list[Item] = []
        self._call: Item | None = None  # the function call that is being written
        self._call_index: object = None
        self._held: list[Aside] = []  # function calls, until the message before them has been spoken
        self._words: list[str] = []  # of `message`
        self._speaking: Speaking | None = None
        self._writing: asyncio.Timeout | None = None  # its end ends the answer
        self._why: str | None = None  # it was stopped: by the client, or a `Stopped`
        self._heard: asyncio.Future[Heard] | None = None  # until its client stopped it, or the daemon did
        self._cut_s: float | None = None  # the client said how much it heard, before the end
        self._finish: str | None = None
        self._usage: dict[str, int] | None = None

    async def run(self) -> None:
        """From response.created to response.done."""
        await self._session.send("response.created", response=self._shown(_Ending("in_progress")))
        service, wanted = self._session.service, self._wanted
        extra = wanted.parameters()
        problem = None
        try:
            source = service.answer(wanted.model, self._prompt, extra=extra)
            await (self._write(source) if self._conversation is None else self._speak(source, self._conversation))
        except Problem as exc:
            problem = exc
        except Llm2wsError as exc:
            problem = problem_of(exc)
        ending = self._ending(problem)
        await self._close_message(ending.status)
        for call in self._held:
            await self._function_call(call)
        await self._close_call(ending.status)
        await self._session.send("response.done", response=self._shown(ending))

    async def stop(self, why: str = Stopped.SHUTDOWN) -> None:
        """End it now. Its events are still to come."""
        self._why = self._why or why
        if self._speaking is not None:
            self._heard = self._heard or asyncio.get_running_loop().create_future()
            heard = await self._speaking.turn.interrupt()
            if not self._heard.done():
                self._heard.set_result(heard)
        elif self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())

    def truncate(self, heard_s: float) -> None:
        """The client has heard so much of what is being said, and will hear no more. Raises Problem when it cannot have."""
        assert self.message is not None
        if self._speaking is not None:
            self.message.spoken = self._speaking.turn.spoken
        self.message.cut(heard_s)
        self._cut_s = heard_s

    # Speech

    async def _speak(self, source: AsyncGenerator[str | Aside, None], conversation: Conversation) -> None:
        async with speaking(self._session.request, conversation, source, face="realtime") as self._speaking:
            if self._why is not None:  # before it began
                await self.stop(self._why)
            async with aclosing(self._speaking.events()) as events:
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
                                await self._open_message()  # nothing of it could be spoken
                        case Notice():
                            pass
                        case _:
                            assert_never(event)

    # Text

    async def _write(self, source: AsyncGenerator[str | Aside, None]) -> None:
        left = self._session.client.limits.text_chars
        turns = self._session.request.app[DAEMON].turns
        turns.add(self.stop)
        try:
            async with aclosing(source), asyncio.timeout(0.0 if self._why else None) as self._writing:
                async for item in source:
                    if isinstance(item, Aside):
                        await self._aside(item)
                        continue
                    left -= len(item)
                    if left < 0:
                        self._why = Stopped.TEXT
                        break
                    if item:
                        await self._text(item, "response.output_text.delta")
        except TimeoutError:
            if self._why is None:
                raise
        finally:
            turns.discard(self.stop)

    # Items

    async def _aside(self, aside: Aside) -> None:
        match aside.kind:
            case "tool_call" if self._speaking is not None and self._speaking.turn.stats.source_chars:
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
        await self._session.send(kind, **self._place(message), delta=delta)

    async def _open(self, item: Item) -> None:
        self._output.append(item)
        await self._session.send("response.output_item.added", **self._at(item), item=item.shown)
        if not self._apart:
            previous = self._session.history.add(item)
            await self._session.send("conversation.item.added", previous_item_id=previous, item=item.shown)

    async def _close(self, item: Item, status: str) -> None:
        item.shown["status"] = "completed" if status == "completed" else "incomplete"
        if item in self._session.history:
            await self._session.send("conversation.item.done", item=item.shown)
        await self._session.send("response.output_item.done", **self._at(item), item=item.shown)

    async def _open_message(self) -> Item:
        if not self._wanted.spoken:
            await self._close_call("completed")
        self.message = message = Item({**_new_item("message"), "role": "assistant", "content": []})
        self._words = []
        await self._open(message)
        await self._session.send("response.content_part.added", **self._place(message), part=self._part())
        return message

    async def _close_message(self, status: str) -> None:
        message, said = self.message, "".join(self._words)
        if message is None:
            return
        if self._speaking is None:
            message.text = said
            message.shown["content"] = [{"type": "output_text", "text": said}]
            await self._session.send("response.output_text.done", **self._place(message), text=said)
        else:
            message.shown["content"] = [{"type": "output_audio", "transcript": said}]
            heard = await self._heard if self._heard is not None else None
            self._remember(message, self._speaking.turn.spoken, heard)
            await self._session.send("response.output_audio.done", **self._place(message))
            await self._session.send("response.output_audio_transcript.done", **self._place(message), transcript=said)
        await self._session.send("response.content_part.done", **self._place(message), part=self._part())
        self.message = None
        await self._close(message, status)

    def _remember(self, message: Item, spoken: Spoken, heard: Heard | None) -> None:
        """Of an answer, the model is told later that it said what was heard."""
        message.spoken = spoken
        if self._cut_s is not None:
            message.cut(self._cut_s)
        elif heard is not None:
            message.text = heard.heard
        else:
            message.text = spoken.text if spoken.complete else spoken.split(spoken.seconds).heard

    async def _function_call(self, aside: Aside) -> None:
        """A piece of one: the first has its name."""
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
            await self._session.send("response.function_call_arguments.delta", **place, delta=str(arguments))

    async def _close_call(self, status: str) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        named = {name: call.shown[name] for name in ("call_id", "name", "arguments")}
        await self._session.send("response.function_call_arguments.done", **self._at(call), item_id=call.id, **named)
        await self._close(call, status)

    # What clients see

    def _at(self, item: Item) -> dict[str, Any]:
        return {"response_id": self.id, "output_index": self._output.index(item)}

    def _place(self, message: Item) -> dict[str, Any]:
        """Of its one part."""
        return {**self._at(message), "item_id": message.id, "content_index": 0}

    def _part(self) -> dict[str, str]:
        said = "".join(self._words)
        return {"type": "audio", "transcript": said} if self._wanted.spoken else {"type": "text", "text": said}

    def _ending(self, problem: Problem | None) -> _Ending:
        if problem is None and Stopped.SHUTDOWN in (self._why, self._stopped):
            problem = Problem(503, "the daemon stops: connect again", code="draining", kind="server_error")
        if problem is not None:
            error = {"type": problem.kind, "code": problem.code, "message": problem.message}
            return _Ending("failed", {"type": "failed", "error": error})
        if self._why == CANCELLED:
            return _Ending("cancelled", {"type": "cancelled", "reason": "client_cancelled"})
        reason = "max_output_tokens" if self._why or self._stopped else _REASONS.get(self._finish or "")
        if reason is not None:
            return _Ending("incomplete", {"type": "incomplete", "reason": reason})
        return _Ending("completed", {"type": "completed"})

    @property
    def _stopped(self) -> Stopped | None:
        return None if self._speaking is None else self._speaking.stopped

    def _shown(self, ending: _Ending) -> dict[str, object]:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": ending.status,
            "status_details": ending.details,
            "output": [item.shown for item in self._output],
            "conversation_id": None if self._apart else self._session.conversation_id,
            "metadata": self._metadata,
            "usage": self._usage,
            **self._wanted.shown(),
        }


# Why an answer ended that was not complete.
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _new_item(kind: str) -> dict[str, Any]:
    return {"id": new_id("item"), "object": "realtime.item", "type": kind, "status": "in_progress"}


def _usage(counts: object) -> dict[str, int] | None:
    """Tokens in the API's words, None where the LLM's server does not count them. Speech is none of an LLM's tokens."""
    if not isinstance(counts, Mapping):
        return None
    asked, written = (n if isinstance(n := counts.get(f"{kind}_tokens"), int) else 0 for kind in ("prompt", "completion"))
    return {"input_tokens": asked, "output_tokens": written, "total_tokens": asked + written}
