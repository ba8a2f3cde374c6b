"""Chat Completions: the API of OpenAI, which Ollama, vLLM, llama.cpp, OpenRouter and many others offer as well."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Unpack

from .answer import ResponseStream
from .aside import Aside
from .client import SdkClient
from .deltas import Deltas, Finals
from .events import finish_of, json_of
from .failover import one_answer
from .faults import ended_early, failed, no_answer
from .kept import kept_answer
from .model import LlmEndpoint, ModelOptions, ModelSettings, Vendor, settings_from
from .prompt import Prompt, conversation
from .reasons import NO_REASONS, reason_of
from .sse import StreamEvent

if TYPE_CHECKING:
    import openai

__all__ = ["LIMITS", "VENDOR", "ChatParser", "OpenAIChat", "OpenAIClient", "defaults", "is_openai", "openai_chat", "texts_of"]

LIMITS = ("max_tokens", "max_completion_tokens")  # Two names of one field.

VENDOR = Vendor("OpenAI", "https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY", "gpt-5.4-mini")


def openai_chat(
    prompt: Prompt, *, client: openai.AsyncOpenAI | None = None, **options: Unpack[ModelOptions]
) -> AsyncGenerator[str | Aside, None]:
    """Return a source: a model's answer to `prompt`, a question or a conversation. For options see `ModelSettings`.

    It gives text as it comes, then Aside("finish") with `reason` and `usage`; an Aside("tool_call") or Aside("refusal") for
    each piece of one. Reasoning is dropped. Raises ConfigError at once for options that cannot be right, SourceError while it
    is read.

    `client`: an SDK's client of your own, which stays open; None: one is made of the options, and kept for further answers.
    """
    asked = OpenAIChat(settings_from("openai_chat", options), client)
    return kept_answer(asked, prompt) if client is None else one_answer(asked, prompt)


def is_openai(endpoint: LlmEndpoint) -> bool:
    """Return whether this is OpenAI, or Azure's OpenAI: other servers do not know all of its fields."""
    return endpoint.host.partition(":")[0].endswith((".openai.com", ".openai.azure.com"))


def _limit(endpoint: LlmEndpoint) -> str:
    # OpenAI refuses the old name for its newer models; not all other servers know the new one.
    return "max_completion_tokens" if is_openai(endpoint) else "max_tokens"


def defaults(endpoint: LlmEndpoint, settings: ModelSettings) -> dict[str, object]:
    """Return the fields of a request that the settings state, besides model and messages."""
    limit = _limit(endpoint)
    own = {"temperature": settings.temperature, limit: settings.max_tokens, "stop": settings.stop_words or None}
    return {**{name: value for name, value in own.items() if value is not None}, **settings.extra}


class OpenAIClient(SdkClient["openai.AsyncOpenAI"]):
    """A client on OpenAI's SDK."""

    def __init__(self, settings: ModelSettings, sdk: openai.AsyncOpenAI | None = None) -> None:
        super().__init__(settings, VENDOR, sdk)

    def _make(self) -> tuple[openai.AsyncOpenAI, type[Exception]]:
        import openai

        if self._given is not None:
            return self._given, openai.OpenAIError
        sdk = openai.AsyncOpenAI(base_url=self._endpoint.url, **self._options(openai.DefaultAioHttpClient))
        if not is_openai(self._endpoint):
            sdk.organization = sdk.project = None  # They are from the environment, and OpenAI's business alone.
        return sdk, openai.OpenAIError


class OpenAIChat(OpenAIClient):
    """A client of the Chat Completions API."""

    _required = ("model", "messages")

    def _create(self, sdk: openai.AsyncOpenAI) -> Callable[..., AbstractAsyncContextManager[Any]]:
        return sdk.chat.completions.with_streaming_response.create

    def _parser(self) -> ChatParser:
        return ChatParser(self._endpoint)

    async def _ask(self, prompt: Prompt, extra: Mapping[str, object], stack: AsyncExitStack) -> ResponseStream:
        import openai

        body = self._body(prompt, extra)
        if "stream_options" in self._refused:
            return await self._send(body, stack)
        # The padding against guessing by length is for the open network; only OpenAI knows the field.
        padding = {"include_obfuscation": False} if is_openai(self._endpoint) else {}
        try:
            return await self._send({"stream_options": {"include_usage": True, **padding}, **body}, stack)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
            # Some servers refuse fields they do not know. Usage is worth less than an answer.
            if "stream_options" not in exc.response.text:
                raise
        self._refused.add("stream_options")
        return await self._send(body, stack)

    def _body(self, prompt: Prompt, extra: Mapping[str, object]) -> dict[str, Any]:
        settings = self._settings
        limit = _limit(self._endpoint)
        return {
            "model": self._endpoint.model,
            "messages": conversation(prompt, system=settings.system, template=settings.template),
            **defaults(self._endpoint, settings),
            **{limit if name in LIMITS else name: value for name, value in extra.items()},
            "stream": True,
        }


# Names in a choice or its delta: of reasoning, which is part of an answer and not spoken; and of what is no part of it.
_REASONING = frozenset(("audio", "reasoning", "reasoning_content", "reasoning_details", "thinking"))
_WITHOUT_TEXT = frozenset(
    ("delta", "finish_reason", "id", "logprobs", "message", "name", "native_finish_reason", "object", "role", "stop_reason")
)


class ChatParser:
    """A parser of the chunks of one answer: https://platform.openai.com/docs/api-reference/chat-streaming.

    Servers differ:

    - The chunk with `usage` has no choices, and comes after the one with `finish_reason`; `choices` may be absent.
    - Reasoning is in `reasoning_content` (DeepSeek, llama.cpp, vLLM until 2025) or `reasoning` (vLLM, Ollama, OpenRouter).
    - An error within the stream is `{"error": ...}`, of older vLLM `{"object": "error"}`, of older llama.cpp an `error:` field.
    - `[DONE]` or `finish_reason` may be missing; without both, the answer is not complete. A server that gives up in the middle
      may say so with `finish_reason` alone.
    - A `message` has the whole answer, instead of deltas or after them. A stream of messages without deltas may have the next
      part of the answer in each, or the text so far.
    """

    def __init__(self, endpoint: LlmEndpoint) -> None:
        self.complete = False
        self._endpoint = endpoint
        self.first: Mapping[str, object] = {}  # The first chunk: its id, model and created are those of the answer.
        self.reason: str | None = None  # Why the answer ended; None before its end.
        self.sent_error = False  # The server reported its failure as `{"error": ...}`, which clients understand.
        self._texts = Finals()
        self._messages = Deltas(endpoint.who, cumulative=None)  # Texts of messages, in a stream without deltas.
        self._has_deltas = False
        self._refusals = Finals()
        self._has_calls = False
        self._is_recognised: bool | None = None  # Some data was part of an answer; False: there was only other data.
        self._usage: object = None

    def event(self, event: StreamEvent) -> list[str | Aside]:
        """Return the items in an event."""
        if event.data.startswith(b"[DONE]"):
            self.complete = True
            return [*self._held()]
        chunk = json_of(event.data, self._endpoint, event.name)
        if isinstance(chunk, dict):
            return self._chunk(chunk)
        self._is_recognised = self._is_recognised or False
        return []

    def whole(self, body: object) -> list[str | Aside]:
        """Return the items in an answer that is one JSON object."""
        items = self._chunk(body) if isinstance(body, dict) else []
        if not isinstance(body, dict) or "choices" not in body:
            raise no_answer(self._endpoint, "something")
        self.complete = True
        return items

    def end(self) -> Aside:
        """Return the Aside("finish"). Raises SourceError if the answer is not complete."""
        if not self.complete and self.reason is None:
            raise ended_early(self._endpoint)
        return finish_of(self._endpoint, self.reason, self._usage, is_recognised=self._is_recognised is not False)

    def _chunk(self, chunk: dict[str, Any]) -> list[str | Aside]:
        if chunk.get("error") or chunk.get("object") == "error":
            self.sent_error = bool(chunk.get("error"))
            raise failed(self._endpoint, chunk)
        self.first = self.first or chunk
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        items: list[str | Aside] = []
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):  # Of several answers, the first is spoken.
                self._choice(choice, items)
        if items:
            self._is_recognised = True
        elif not self._is_recognised:
            self._look_at(chunk)
        return items

    def _look_at(self, chunk: dict[str, Any]) -> None:
        """Note what a chunk without text holds, while the answer has had no text."""
        choices = chunk.get("choices", None if self._usage else [{"choices": "none"}])
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):
                for part in (choice, choice.get("delta"), choice.get("message")):
                    names = {name for name, value in part.items() if _says(value)} if isinstance(part, dict) else set()
                    if names - _WITHOUT_TEXT:
                        self._is_recognised = self._is_recognised or not _REASONING.isdisjoint(names)

    def _choice(self, choice: dict[str, Any], items: list[str | Aside]) -> None:
        if choice.get("error"):
            raise failed(self._endpoint, choice)
        if isinstance(reason := choice.get("finish_reason"), str) and reason.lower() not in NO_REASONS:
            self.reason = reason_of(reason)
        if isinstance(delta := choice.get("delta"), dict):
            for text in texts_of(delta.get("content")):
                self._has_deltas = True
                self._texts.delta(text)
                items.append(text)
            if isinstance(refusal := delta.get("refusal"), str) and refusal:
                self._refusals.delta(refusal)
                items.append(Aside("refusal", {"text": refusal}))
            items += self._calls(delta)
        if isinstance(message := choice.get("message"), dict):
            if new := self._new_in("".join(texts_of(message.get("content")))):
                items.append(new)
            if isinstance(refusal := message.get("refusal"), str) and (rest := self._refusals.rest(refusal)):
                items.append(Aside("refusal", {"text": rest}))
            if not self._has_calls:
                items += self._calls(message)
        if self.reason is not None:
            items += self._held()

    def _new_in(self, text: str) -> str:
        """Return what is new in a message: the whole answer after deltas, else the next part of it or the text so far."""
        if self._has_deltas or text.strip() == self._texts.given.strip():
            return self._texts.rest(text)
        new = self._messages.feed(text)
        self._texts.delta(new)
        return new

    def _held(self) -> list[str]:
        """Return the text of messages that was held back, at the end of the answer."""
        rest = self._messages.finish()
        self._texts.delta(rest)
        return [rest] if rest else []

    def _calls(self, delta: dict[str, Any]) -> list[Aside]:
        calls = delta.get("tool_calls")
        listed = list(calls) if isinstance(calls, list) else []
        if delta.get("function_call"):  # The name until 2023.
            listed.append({"index": 0, "function": delta["function_call"]})
        pieces = [piece for call in listed for piece in _tool_call(call)]
        self._has_calls = self._has_calls or bool(pieces)
        return pieces


def _says(value: object) -> bool:
    """Return whether there may be text in a value."""
    return bool(value) and isinstance(value, str | dict | list)


def texts_of(content: object) -> list[str]:
    """Return the texts in a `content`: a string, or (Mistral) a list of parts, some of which are thinking."""
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list):
        return []
    parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")]
    return [text for part in parts if isinstance(text := part.get("text"), str) and text]


def _tool_call(call: object) -> list[Aside]:
    """Return a piece of a tool call. The `arguments` of pieces with the same `index` are to be joined."""
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return []
    piece = {"index": call.get("index", 0), "id": call.get("id"), **{key: function.get(key) for key in ("name", "arguments")}}
    return [Aside("tool_call", {key: value for key, value in piece.items() if value is not None})]
