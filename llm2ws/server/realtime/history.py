"""The conversation of one Realtime session, as its client sees it and as an LLM reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...sources.prompt import Message
from ...speech.utterance.heard import Spoken
from ..problems import Problem
from .events import ConversationItem

__all__ = ["History", "Item", "item_of", "messages"]


@dataclass(slots=True)
class Item:
    """An item of the conversation.

    `shown`: the item as clients see it. `text`: what the LLM reads of it. `spoken`: how an answer with audio was
    spoken, so that it can be cut to what was heard; None for other items.
    """

    shown: dict[str, Any]
    text: str = ""
    spoken: Spoken | None = None

    @property
    def id(self) -> str:
        return str(self.shown["id"])

    @property
    def kind(self) -> str:
        """The role of a message; for other items their type."""
        return str(self.shown.get("role", self.shown["type"]))

    @property
    def chars(self) -> int:
        """The characters of everything that is kept of the item: names and ids cost memory as texts do."""
        words = sum(len(value) for name, value in self.shown.items() if isinstance(value, str) and name != "output")
        return len(self.text) + words + sum(len(part["type"]) for part in self.shown.get("content", ()))

    def cut(self, heard_s: float) -> None:
        """Cut the text to what `heard_s` seconds of the audio said. Raises Problem when the item has no such audio."""
        if self.spoken is None:
            raise Problem(400, "item_id: not an answer with audio: name one", param="item_id", code="invalid_value")
        if heard_s > self.spoken.seconds + 0.001:
            what = f"audio_end_ms: the audio has only {self.spoken.seconds * 1000:.0f} ms"
            raise Problem(400, what, param="audio_end_ms", code="invalid_value")
        self.text = self.spoken.split(heard_s).heard
        self.shown["content"] = [{"type": "output_audio", "transcript": self.text}]


_CONTENT = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


def item_of(given: ConversationItem, item_id: str) -> Item:
    """Return the item that a client sent. Raises Problem for an item that is not served or not complete."""
    shown: dict[str, Any] = {"id": given.id or item_id, "object": "realtime.item", "type": given.type, "status": "completed"}
    match given.type:
        case "message" if given.role in _CONTENT:
            kind = _CONTENT[given.role]
            for n, part in enumerate(given.content):
                if part.type != kind or part.text is None:
                    what = f"item.content[{n}]: not served: send {kind} with a text"
                    raise Problem(400, what, param=f"item.content[{n}].type", code="invalid_value")
            shown |= {"role": given.role, "content": [{"type": kind, "text": part.text} for part in given.content]}
            return Item(shown, "\n".join(part.text or "" for part in given.content))
        case "message":
            raise Problem(400, "item.role: send user, system or assistant", param="item.role", code="invalid_value")
        case "function_call" if given.name and given.call_id:
            return Item(shown | {"call_id": given.call_id, "name": given.name, "arguments": given.arguments})
        case "function_call_output" if given.call_id and given.output is not None:
            return Item(shown | {"call_id": given.call_id, "output": given.output}, given.output)
        case "function_call" | "function_call_output":
            raise Problem(400, "item: call_id, and name or output, are missing: send them", param="item.call_id")
    what = "item.type: send message, function_call or function_call_output"
    raise Problem(400, what, param="item.type", code="invalid_value")


class History:
    """The conversation of one session: its items in their order. It may have at most `max_chars` characters."""

    def __init__(self, conversation_id: str, max_chars: int) -> None:
        self.id = conversation_id
        self._items: dict[str, Item] = {}
        self._max_chars = max_chars

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __contains__(self, item: Item) -> bool:
        return self._items.get(item.id) is item

    def __getitem__(self, item_id: str) -> Item:
        """Return the item of that id. Raises Problem when there is none."""
        if item_id not in self._items:
            raise Problem(404, "item_id: the conversation has no such item", param="item_id", code="item_not_found")
        return self._items[item_id]

    def __delitem__(self, item_id: str) -> None:
        """Remove the item of that id. Raises Problem when there is none."""
        del self._items[self[item_id].id]

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Insert an item, and return the id of the item before it; None when the new one is the first.

        `after`: the id of an item, "root" for the beginning, None for the end. Raises Problem when the item cannot be added.
        """
        if item.id in self._items:
            raise Problem(400, "item.id: there is one already: send another id, or none", param="item.id")
        if item.kind == "function_call_output" and not any(
            other.kind == "function_call" and other.shown["call_id"] == item.shown["call_id"] for other in self
        ):
            raise Problem(400, "item.call_id: no function was called with it", param="item.call_id", code="invalid_value")
        if item.chars + sum(other.chars for other in self) > self._max_chars:
            what = f"the conversation would have more than {self._max_chars} characters: delete items first"
            raise Problem(400, what, param="item", code="string_above_max_length")
        order = list(self._items)
        if after not in (None, "root", *order):
            what = "previous_item_id: the conversation has no such item"
            raise Problem(400, what, param="previous_item_id", code="item_not_found")
        at = len(order) if after is None else 0 if after == "root" else order.index(after) + 1
        order.insert(at, item.id)
        self._items[item.id] = item
        if at < len(order) - 1:
            self._items = {item_id: self._items[item_id] for item_id in order}
        return order[at - 1] if at else None


def messages(items: Iterable[Item], instructions: str) -> list[Message]:
    """Return the conversation in the form of Chat Completions.

    There a message with function calls is followed by the outputs of all of them: outputs move up to their calls, calls that
    follow each other or a message become one with it, and calls that have no output yet are left out.
    """
    items = list(items)
    outputs = {item.shown["call_id"]: item.text for item in items if item.kind == "function_call_output"}
    prompt: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    calling: dict[str, Any] | None = None  # the message to which the next call belongs
    answers: list[dict[str, Any]] = []

    def answer() -> None:
        nonlocal calling
        prompt.extend(answers)
        answers.clear()
        calling = None

    for item in items:
        match item.kind:
            case "function_call" if item.shown["call_id"] in outputs:
                if calling is None:
                    calling = {"role": "assistant", "content": None}
                    prompt.append(calling)
                calling.setdefault("tool_calls", []).append(_call(item.shown))
                call_id = item.shown["call_id"]
                answers.append({"role": "tool", "tool_call_id": call_id, "content": outputs[call_id]})
            case "function_call":
                continue
            case "function_call_output":
                answer()
            case role if item.text:
                answer()
                prompt.append({"role": role, "content": item.text})
                calling = prompt[-1] if role == "assistant" else None
    answer()
    return [*prompt]


def _call(shown: Mapping[str, Any]) -> dict[str, object]:
    function = {"name": shown["name"], "arguments": shown["arguments"]}
    return {"id": shown["call_id"], "type": "function", "function": function}
