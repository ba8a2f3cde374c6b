"""What clients of OpenAI's Realtime API send, and what a session is set to.

https://platform.openai.com/docs/api-reference/realtime-client-events
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from ...audio import AudioFormat, Encoding
from ..daemon import Problem
from ..encode import Speed

__all__ = [
    "Asked",
    "Cancel",
    "Create",
    "Head",
    "ItemCreate",
    "ItemIn",
    "ItemNamed",
    "ItemTruncate",
    "SessionUpdate",
    "Wanted",
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


class _Format(_Strict, kw_only=True):
    type: Literal["audio/pcm", "audio/pcma", "audio/pcmu"]
    rate: Literal[24_000, 8_000] | None = None


class _VoiceId(_Strict, kw_only=True):
    id: str


class _Output(_Strict, kw_only=True):
    format: _Format | None = None
    voice: str | _VoiceId | None = None
    speed: Speed | None = None


class _Input(_Strict, kw_only=True):
    """Audio input is not served: it can only be switched off."""

    format: _Format | None = None
    noise_reduction: None = None
    transcription: None = None
    turn_detection: None = None


class _Audio(_Strict, kw_only=True):
    input: _Input | None = None
    output: _Output | None = None


class _Tool(_Strict, kw_only=True):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Choice(_Strict, kw_only=True):
    type: Literal["function"]
    name: str


_ToolChoice = Literal["auto", "none", "required"] | _Choice
_Limit = Annotated[int, Meta(ge=1)] | Literal["inf"]


class Asked(_Strict, kw_only=True):
    """What a session and one response may say about answers."""

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


class _SessionIn(Asked, kw_only=True):
    type: Literal["realtime"]
    model: str | None = None
    tracing: None = None
    truncation: Literal["auto", "disabled"] | None = None  # no item is ever left out


class _ResponseIn(Asked, kw_only=True):
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

    def changed(self, asked: Asked) -> Wanted:
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

    def parameters(self) -> dict[str, object]:
        """The same for an LLM, in the words of Chat Completions."""
        fields: dict[str, object] = {}
        if self.max_output_tokens != "inf":
            fields["max_tokens"] = self.max_output_tokens
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


class _Event(_Strict, kw_only=True):
    type: str
    event_id: str | None = None


class SessionUpdate(_Event, kw_only=True):
    session: _SessionIn


class _Part(Struct):
    type: str
    text: str | None = None


class ItemIn(Struct, kw_only=True):
    """An item of any kind, or a reference to one. What has to be there differs between kinds."""

    type: str
    id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    role: str = ""
    content: list[_Part] = []
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | None = None


class ItemCreate(_Event, kw_only=True):
    item: ItemIn
    previous_item_id: str | None = None


class ItemNamed(_Event, kw_only=True):
    """conversation.item.delete and conversation.item.retrieve."""

    item_id: str


class ItemTruncate(_Event, kw_only=True):
    item_id: str
    content_index: Literal[0]  # an answer has one part
    audio_end_ms: Annotated[int, Meta(ge=0)]


class Create(_Event, kw_only=True):
    response: _ResponseIn | UnsetType | None = UNSET


class Cancel(_Event, kw_only=True):
    response_id: str | None = None
