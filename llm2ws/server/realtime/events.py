"""The events that clients of OpenAI's Realtime API send, and the settings of a session and its responses.

https://platform.openai.com/docs/api-reference/realtime-client-events
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, replace

from ...audio import AudioFormat, Encoding
from ..encode import Speed
from ..problems import Problem

__all__ = [
    "ConversationItem",
    "EventHead",
    "ItemById",
    "ItemCreate",
    "ItemTruncate",
    "ResponseCancel",
    "ResponseCreate",
    "ResponseParams",
    "ResponseSettings",
    "SessionUpdate",
]

# The audio formats of the API.
_FORMATS = {
    "audio/pcm": AudioFormat(Encoding.LINEAR16, 24_000),
    "audio/pcma": AudioFormat(Encoding.ALAW, 8_000),
    "audio/pcmu": AudioFormat(Encoding.MULAW, 8_000),
}


class _Strict(Struct, forbid_unknown_fields=True, kw_only=True):
    """An object in which a field that is not served is an error."""


# The session, and what a response may have different from it


class _FormatParams(_Strict, kw_only=True):
    type: Literal["audio/pcm", "audio/pcma", "audio/pcmu"]
    rate: Literal[24_000, 8_000] | None = None


class _VoiceId(_Strict, kw_only=True):
    id: str


class _AudioOutput(_Strict, kw_only=True):
    format: _FormatParams | None = None
    voice: str | _VoiceId | None = None
    speed: Speed | None = None


class _AudioInput(_Strict, kw_only=True):
    """Audio input is not served: it can only be switched off."""

    format: _FormatParams | None = None
    noise_reduction: None = None
    transcription: None = None
    turn_detection: None = None


class _AudioParams(_Strict, kw_only=True):
    input: _AudioInput | None = None
    output: _AudioOutput | None = None


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


class ResponseParams(_Strict, kw_only=True):
    """The fields that a session and a single response have in common."""

    audio: _AudioParams | None = None
    instructions: str | None = None
    max_output_tokens: _Limit | None = None
    output_modalities: Annotated[list[Literal["audio", "text"]], Meta(min_length=1, max_length=1)] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: _ToolChoice | None = None
    tools: list[_Tool] | None = None
    # Not served: they may only be null.
    prompt: None = None
    reasoning: None = None


class SessionParams(ResponseParams, kw_only=True):
    type: Literal["realtime"]
    model: str | None = None
    tracing: None = None
    truncation: Literal["auto", "disabled"] | None = None  # Without effect: no item is ever left out.


class _ResponseCreateParams(ResponseParams, kw_only=True):
    conversation: Literal["auto", "none"] = "auto"
    input: list[ConversationItem] | None = None
    metadata: dict[str, str] | None = None


class ResponseSettings(Struct, frozen=True, kw_only=True):
    """How a response is made: the settings of the session, changed by those of its `response.create`."""

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

    def changed(self, params: ResponseParams) -> ResponseSettings:
        """Return the settings with those of `params` that are set. Raises Problem for a setting that cannot be changed."""
        model = getattr(params, "model", None)
        if model not in (None, self.model):
            raise Problem(400, "session.model: it is set when connecting: connect again", param="session.model")
        output = (params.audio and params.audio.output) or _AudioOutput()
        voice = output.voice
        given = {
            "spoken": None if params.output_modalities is None else params.output_modalities == ["audio"],
            "instructions": params.instructions,
            "voice": voice.id if isinstance(voice, _VoiceId) else voice,
            "speed": output.speed,
            "format": _checked_format(output.format),
            "max_output_tokens": params.max_output_tokens,
            "parallel_tool_calls": params.parallel_tool_calls,
            "tool_choice": params.tool_choice,
            "tools": None if params.tools is None else tuple(params.tools),
        }
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def shown(self) -> dict[str, object]:
        """Return the fields that a session and a response have in common, as the client sees them."""
        fmt = {"type": self.format, "rate": 24_000} if self.format == "audio/pcm" else {"type": self.format}
        return {
            "output_modalities": ["audio" if self.spoken else "text"],
            "max_output_tokens": self.max_output_tokens,
            "audio": {"output": {"format": fmt, "voice": self.voice}},
        }

    def session(self, session_id: str) -> dict[str, object]:
        """Return the session as the client sees it."""
        shown: dict[str, Any] = self.shown()
        shown["audio"]["output"]["speed"] = self.speed
        choice = self.tool_choice
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": self.model,
            "instructions": self.instructions,
            "tools": [_without_none(tool) for tool in self.tools],
            "tool_choice": choice if isinstance(choice, str) else asdict(choice),
            **shown,
        }

    def parameters(self) -> dict[str, object]:
        """Return the parameters for an LLM, in the words of Chat Completions."""
        fields: dict[str, object] = {}
        if self.max_output_tokens != "inf":
            fields["max_tokens"] = self.max_output_tokens
        if self.tools:
            functions = [{name: value for name, value in _without_none(tool).items() if name != "type"} for tool in self.tools]
            fields["tools"] = [{"type": "function", "function": function} for function in functions]
            choice = self.tool_choice
            fields["tool_choice"] = (
                choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}
            )
            if self.parallel_tool_calls is not None:
                fields["parallel_tool_calls"] = self.parallel_tool_calls
        return fields


def _checked_format(fmt: _FormatParams | None) -> str | None:
    if fmt is None:
        return None
    if fmt.rate not in (None, _FORMATS[fmt.type].sample_rate_hz):
        raise Problem(400, f"audio.output.format.rate: {fmt.type} has {_FORMATS[fmt.type].sample_rate_hz}: leave it out")
    return fmt.type


def _without_none(tool: _Tool) -> dict[str, Any]:
    return {name: value for name, value in asdict(tool).items() if value is not None}


# Events


class EventHead(Struct):
    """The fields of all events. `type` decides how the others are read."""

    type: str
    event_id: str | None = None


class _Event(_Strict, kw_only=True):
    type: str
    event_id: str | None = None


class SessionUpdate(_Event, kw_only=True):
    session: SessionParams


class _ContentPart(Struct):
    type: str
    text: str | None = None


class ConversationItem(Struct, kw_only=True):
    """An item of any kind, or a reference to one. Which fields are required depends on the kind; `item_of` checks it."""

    type: str
    id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    role: str = ""
    content: list[_ContentPart] = []
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | None = None


class ItemCreate(_Event, kw_only=True):
    item: ConversationItem
    previous_item_id: str | None = None


class ItemById(_Event, kw_only=True):
    """A conversation.item.delete or conversation.item.retrieve."""

    item_id: str


class ItemTruncate(_Event, kw_only=True):
    item_id: str
    content_index: Literal[0]  # An answer has one content part.
    audio_end_ms: Annotated[int, Meta(ge=0)]


class ResponseCreate(_Event, kw_only=True):
    response: _ResponseCreateParams | UnsetType | None = UNSET


class ResponseCancel(_Event, kw_only=True):
    response_id: str | None = None
