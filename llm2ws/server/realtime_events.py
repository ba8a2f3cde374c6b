"""What clients of OpenAI's Realtime API send, the session it sets, and the conversation as an LLM is told it.

https://platform.openai.com/docs/api-reference/realtime-client-events
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from ..audio import AudioFormat, Encoding
from ..sources.prompt import Message
from ..speech.spoken import Spoken
from .state import Problem

__all__ = [
    "Cancel",
    "Create",
    "Head",
    "History",
    "Item",
    "ItemCreate",
    "ItemIn",
    "ItemNamed",
    "ItemTruncate",
    "SessionUpdate",
    "Wanted",
    "item_of",
    "messages",
]

# The formats of the API, and what they are.
_FORMATS = {
    "audio/pcm": AudioFormat(Encoding.LINEAR16, 24_000),
    "audio/pcma": AudioFormat(Encoding.ALAW, 8_000),
    "audio/pcmu": AudioFormat(Encoding.MULAW, 8_000),
}


class _Strict(Struct, forbid_unknown_fields=True, kw_only=True):
    """A field that is not known is not served, and so it is an error."""


# The session, and what one response may have different


class _Format(_Strict):
    type: Literal["audio/pcm", "audio/pcma", "audio/pcmu"]
    rate: Literal[24_000, 8_000] | None = None


class _VoiceId(_Strict):
    id: str


class _Output(_Strict):
    format: _Format | None = None
    voice: str | _VoiceId | None = None
    speed: Annotated[float, Meta(ge=0.25, le=1.5)] | None = None


class _Input(_Strict):
    """Audio input is not served: it can only be switched off."""

    format: _Format | None = None
    noise_reduction: None = None
    transcription: None = None
    turn_detection: None = None


class _Audio(_Strict):
    input: _Input | None = None
    output: _Output | None = None


class _Tool(_Strict):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Choice(_Strict):
    type: Literal["function"]
    name: str


_ToolChoice = Literal["auto", "none", "required"] | _Choice
_Limit = Annotated[int, Meta(ge=1)] | Literal["inf"]


class _Asked(_Strict):
    audio: _Audio | None = None
    instructions: str | None = None
    max_output_tokens: _Limit | None = None
    output_modalities: Annotated[list[Literal["audio", "text"]], Meta(min_length=1, max_length=1)] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: _ToolChoice | None = None
    tools: list[_Tool] | None = None
    # Not served: nothing but their absence is understood.
    prompt: None = None
    reasoning: None = None


class _SessionIn(_Asked):
    type: Literal["realtime"]
    model: str | None = None
    tracing: None = None
    truncation: Literal["auto", "disabled"] | None = None  # no item is ever left out


class _ResponseIn(_Asked):
    conversation: Literal["auto", "none"] = "auto"
    input: list[ItemIn] | None = None
    metadata: dict[str, str] | None = None


class Wanted(Struct, frozen=True, kw_only=True):
    """How an answer is to be made: what the session says, changed by what a `response.create` says."""

    model: str
    spoken: bool = True
    instructions: str = ""
    voice: str = ""
    speed: float = 1.0
    format: str = "audio/pcm"
    max_output_tokens: int | Literal["inf"] = "inf"
    parallel_tool_calls: bool | None = None
    tool_choice: _ToolChoice = "auto"
    tools: tuple[_Tool, ...] = ()

    @property
    def audio_format(self) -> AudioFormat:
        return _FORMATS[self.format]

    def changed(self, asked: _Asked) -> Wanted:
        """The same but for what is asked. Raises Problem for what cannot be changed."""
        model = getattr(asked, "model", None)
        if model not in (None, self.model):
            raise Problem(400, "session.model: it is set when connecting: connect again", param="session.model")
        output = (asked.audio and asked.audio.output) or _Output()
        voice = output.voice
        given = {
            "spoken": None if asked.output_modalities is None else asked.output_modalities == ["audio"],
            "instructions": asked.instructions,
            "voice": voice.id if isinstance(voice, _VoiceId) else voice,
            "speed": output.speed,
            "format": _checked(output.format),
            "max_output_tokens": asked.max_output_tokens,
            "parallel_tool_calls": asked.parallel_tool_calls,
            "tool_choice": asked.tool_choice,
            "tools": None if asked.tools is None else tuple(asked.tools),
        }
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def shown(self) -> dict[str, object]:
        """The fields that a session and a response have in common, as the client sees them."""
        fmt = {"type": self.format, "rate": 24_000} if self.format == "audio/pcm" else {"type": self.format}
        return {
            "output_modalities": ["audio" if self.spoken else "text"],
            "max_output_tokens": self.max_output_tokens,
            "audio": {"output": {"format": fmt, "voice": self.voice}},
        }

    def session(self, session_id: str) -> dict[str, object]:
        """The whole session, as the client sees it."""
        shown: dict[str, Any] = self.shown()
        shown["audio"]["output"]["speed"] = self.speed
        choice = self.tool_choice
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": self.model,
            "instructions": self.instructions,
            "tools": [_present(tool) for tool in self.tools],
            "tool_choice": choice if isinstance(choice, str) else asdict(choice),
            **shown,
        }

    def parameters(self, limit: str) -> dict[str, object]:
        """The same for Chat Completions. `limit`: what the LLM's server calls the longest answer."""
        fields: dict[str, object] = {}
        if self.max_output_tokens != "inf":
            fields[limit] = self.max_output_tokens
        if self.tools:
            functions = [{name: value for name, value in _present(tool).items() if name != "type"} for tool in self.tools]
            fields["tools"] = [{"type": "function", "function": function} for function in functions]
            choice = self.tool_choice
            fields["tool_choice"] = (
                choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}
            )
            if self.parallel_tool_calls is not None:
                fields["parallel_tool_calls"] = self.parallel_tool_calls
        return fields


def _checked(fmt: _Format | None) -> str | None:
    if fmt is None:
        return None
    if fmt.rate not in (None, _FORMATS[fmt.type].sample_rate_hz):
        raise Problem(400, f"audio.output.format.rate: {fmt.type} has {_FORMATS[fmt.type].sample_rate_hz}: leave it out")
    return fmt.type


def _present(tool: _Tool) -> dict[str, Any]:
    return {name: value for name, value in asdict(tool).items() if value is not None}


# Events


class Head(Struct):
    """What all events have. `type` is looked up before the rest is understood."""

    type: str
    event_id: str | None = None


class _Event(_Strict):
    type: str
    event_id: str | None = None


class SessionUpdate(_Event):
    session: _SessionIn


class _Part(Struct):
    type: str
    text: str | None = None


class ItemIn(Struct, kw_only=True):
    """An item of any kind, or a reference to one. `item_of` says what is right."""

    type: str
    id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    role: str = ""
    content: list[_Part] = []
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | None = None


class ItemCreate(_Event):
    item: ItemIn
    previous_item_id: str | None = None


class ItemNamed(_Event):
    """conversation.item.delete and conversation.item.retrieve."""

    item_id: str


class ItemTruncate(_Event):
    item_id: str
    content_index: Literal[0]  # an answer has one part
    audio_end_ms: Annotated[int, Meta(ge=0)]


class Create(_Event):
    response: _ResponseIn | UnsetType | None = UNSET


class Cancel(_Event):
    response_id: str | None = None


# The conversation


@dataclass(slots=True)
class Item:
    """`shown` is what clients see of it, `text` what the LLM is told that it says.

    `spoken`: of an answer with audio, which can be cut to what was heard.
    """

    shown: dict[str, Any]
    text: str = ""
    spoken: Spoken | None = None

    @property
    def id(self) -> str:
        return str(self.shown["id"])

    @property
    def kind(self) -> str:
        """Who says it, or which half of a function call it is."""
        return str(self.shown.get("role", self.shown["type"]))

    @property
    def chars(self) -> int:
        return len(self.text) + len(self.shown.get("arguments", "")) + len(self.shown.get("name", ""))

    def cut(self, heard_s: float) -> None:
        """After so many seconds of its audio nothing was heard. Raises Problem when it has no audio, or less."""
        if self.spoken is None:
            raise Problem(400, "item_id: not an answer with audio: name one", param="item_id", code="invalid_value")
        if heard_s > self.spoken.seconds + 0.001:
            what = f"audio_end_ms: the audio has only {self.spoken.seconds * 1000:.0f} ms"
            raise Problem(400, what, param="audio_end_ms", code="invalid_value")
        self.text = self.spoken.split(heard_s).heard
        self.shown["content"][0]["transcript"] = self.text


_CONTENT = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


def item_of(given: ItemIn, item_id: str) -> Item:
    """An item that a client made. Raises Problem for kinds that are not served."""
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
    """The conversation of one connection. `max_chars`: the longest that it may become."""

    def __init__(self, max_chars: int) -> None:
        self._items: dict[str, Item] = {}  # in their order
        self._max_chars = max_chars

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __contains__(self, item: Item) -> bool:
        return self._items.get(item.id) is item

    def __getitem__(self, item_id: str) -> Item:
        """Raises Problem when there is none of that id."""
        if item_id not in self._items:
            raise Problem(404, "item_id: the conversation has no such item", param="item_id", code="item_not_found")
        return self._items[item_id]

    def __delitem__(self, item_id: str) -> None:
        """Raises Problem when there is none of that id."""
        del self._items[self[item_id].id]

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put it after another one ("root": first of all, None: last), whose id is given, None when it is the first.

        Raises Problem when it cannot be.
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
    """The conversation as Chat Completions wants it.

    There a message with function calls is followed by the outputs of all of them: outputs move up to their calls, calls that
    follow each other or a message become one with it, and calls that have no output yet are left out.
    """
    items = list(items)
    outputs = {item.shown["call_id"]: item.text for item in items if item.kind == "function_call_output"}
    told: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    calling: dict[str, Any] | None = None  # the message to which the next call belongs
    answers: list[dict[str, Any]] = []

    def answer() -> None:
        nonlocal calling
        told.extend(answers)
        answers.clear()
        calling = None

    for item in items:
        match item.kind:
            case "function_call" if item.shown["call_id"] in outputs:
                if calling is None:
                    calling = {"role": "assistant", "content": None}
                    told.append(calling)
                calling.setdefault("tool_calls", []).append(_call(item.shown))
                call_id = item.shown["call_id"]
                answers.append({"role": "tool", "tool_call_id": call_id, "content": outputs[call_id]})
            case "function_call":
                continue
            case "function_call_output":
                answer()
            case role if item.text:
                answer()
                told.append({"role": role, "content": item.text})
                calling = told[-1] if role == "assistant" else None
    answer()
    return [*told]


def _call(shown: Mapping[str, Any]) -> dict[str, object]:
    function = {"name": shown["name"], "arguments": shown["arguments"]}
    return {"id": shown["call_id"], "type": "function", "function": function}
