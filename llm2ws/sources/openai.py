"""Chat Completions: the API of OpenAI, which Ollama, vLLM, llama.cpp, OpenRouter and many others speak as well.

The official SDK sends the request, with its authentication and its retries. The answer is read from the response's bytes:
making the SDK's objects of each chunk costs several times what all the rest of a token costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from ..errors import LocalProtocolError, SourceError
from .answer import ask, json_of, model_names
from .aside import Aside
from .faults import broken, ended_early, failed, no_answer, refused
from .model import Endpoint, ModelOptions, ModelSettings, Vendor, http_client, resolve
from .prompt import Prompt, conversation
from .sse import Event

if TYPE_CHECKING:
    import httpx2
    import openai

__all__ = ["OpenAIChat", "openai_chat"]

VENDOR = Vendor("OpenAI", "https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY", "gpt-5.4-mini")
NO_KEY = "none"  # servers that ask for no key take any, and the SDK wants one


def openai_chat(prompt: Prompt, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]:
    """A source: a model's answer to `prompt`, a question or a conversation. For options see `ModelSettings`.

    Text as it comes, then Aside("finish") with `reason` and `usage`; Aside("tool_call") and Aside("refusal") where they come.
    Reasoning is dropped. Raises ConfigError at once for options that cannot be right, SourceError while it is read.
    """
    return _once(OpenAIChat(ModelSettings(**options)), prompt)


async def _once(chat: OpenAIChat, prompt: Prompt) -> AsyncGenerator[str | Aside, None]:
    async with chat, aclosing(chat.answer(prompt)) as items:
        async for item in items:
            yield item


class OpenAIChat:
    """A model behind Chat Completions, asked many times over connections that are kept. Use it with `async with`.

    Raises ConfigError when it is made, for settings that cannot be right.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._endpoint = resolve(settings, VENDOR)
        self._host = self._endpoint.host.partition(":")[0]
        self._include_usage = True
        self._client: openai.AsyncOpenAI | None = None

    async def __aenter__(self) -> Self:
        # In a thread: importing the SDK takes half a second, in which the speech endpoint is connected.
        self._client = await asyncio.to_thread(self._make_client)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._client is not None:
            await self._client.close()

    def _make_client(self) -> openai.AsyncOpenAI:
        import openai

        client = openai.AsyncOpenAI(
            base_url=self._endpoint.url,
            api_key=self._endpoint.key or NO_KEY,
            max_retries=self._settings.max_retries,
            http_client=http_client(openai.DefaultAioHttpClient, self._endpoint),
        )
        if not self._is_openai:
            client.organization = client.project = None  # of the environment, and OpenAI's business alone
        _ = client.chat.completions.with_streaming_response  # imports what it needs
        return client

    @property
    def who(self) -> str:
        """The model and where it is, for people."""
        return self._endpoint.who

    @property
    def _is_openai(self) -> bool:
        return self._host.endswith((".openai.com", ".openai.azure.com"))

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        """One answer, as `openai_chat` gives it. `extra`: fields of this request that win over the settings."""
        if self._client is None:
            raise LocalProtocolError("OpenAIChat was not entered", hint="use it with `async with`")
        import openai

        return ask(
            partial(self._open, self._client, self._body(prompt, extra or {})),
            _Parser(self._endpoint),
            self._endpoint,
            self._settings,
            source_error=_source_error,
            sdk_error=openai.OpenAIError,
        )

    async def models(self) -> list[str]:
        """The names of the models that the server has. Raises SourceError when it cannot be asked."""
        if self._client is None:
            raise LocalProtocolError("OpenAIChat was not entered", hint="use it with `async with`")
        import openai

        client = self._client

        async def request() -> httpx2.Response:
            return (await client.models.with_raw_response.list()).http_response

        return await model_names(request(), self._endpoint, source_error=_source_error, sdk_error=openai.OpenAIError)

    async def _open(self, client: openai.AsyncOpenAI, body: dict[str, object], stack: AsyncExitStack) -> httpx2.Response:
        import openai

        create = client.chat.completions.with_streaming_response.create
        while True:
            fields = dict(body)
            if self._include_usage:
                # The padding against guessing by length is for the open network; only OpenAI knows the field.
                padding = {"include_obfuscation": False} if self._is_openai else {}
                fields.setdefault("stream_options", {"include_usage": True, **padding})
            request = create(
                model=cast(str, fields.pop("model")),
                messages=cast(Any, fields.pop("messages")),
                stream=True,
                extra_headers={"Accept-Encoding": "identity"},  # compressors hold tokens back
                extra_body=fields,
            )
            try:
                return (await stack.enter_async_context(request)).http_response
            except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
                # Some servers refuse fields they do not know. Usage is worth less than an answer.
                if not self._include_usage or "stream_options" not in exc.response.text:
                    raise
                self._include_usage = False

    def _body(self, prompt: Prompt, extra: Mapping[str, object]) -> dict[str, object]:
        settings = self._settings
        # OpenAI refuses the old name for its newer models; of other servers not all know the new one.
        limit = "max_completion_tokens" if self._is_openai else "max_tokens"
        own = {"temperature": settings.temperature, limit: settings.max_tokens, "stop": settings.stop_words or None}
        return {
            "model": self._endpoint.model,
            "messages": conversation(prompt, system=settings.system, template=settings.template),
            **{name: value for name, value in own.items() if value is not None},
            **settings.extra,
            **extra,
            "stream": True,
        }


def _source_error(exc: Exception, endpoint: Endpoint) -> SourceError:
    """What the SDK raised, or what it lets through from below while a response is read."""
    import openai

    if isinstance(exc, openai.APIStatusError):
        return refused(endpoint, exc.status_code, exc.body, exc.response.headers)
    return broken(endpoint, exc)


class _Parser:
    """Chunks of one answer. What differs between servers: https://platform.openai.com/docs/api-reference/chat-streaming

    - The chunk with `usage` has no choices, and comes after the one with `finish_reason`; `choices` may be absent.
    - Reasoning is in `reasoning_content` (DeepSeek, llama.cpp, vLLM until 2025) or `reasoning` (vLLM, Ollama, OpenRouter).
    - An error within the stream is `{"error": ...}`, of older vLLM `{"object": "error"}`, of older llama.cpp an `error:` field.
    - `[DONE]` or `finish_reason` may be missing; without both, the answer is not complete.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.complete = False
        self._endpoint = endpoint
        self._has_text = False
        self._reason: str | None = None
        self._usage: object = None

    def event(self, event: Event) -> list[str | Aside]:
        if event.data.startswith(b"[DONE]"):
            self.complete = True
            return []
        chunk = json_of(event, self._endpoint)
        if event.name == "error":
            raise failed(self._endpoint, chunk)
        return self._chunk(chunk) if isinstance(chunk, dict) else []

    def whole(self, body: object) -> list[str | Aside]:
        items = self._chunk(body) if isinstance(body, dict) else []
        if not isinstance(body, dict) or "choices" not in body:
            raise no_answer(self._endpoint, "something")
        self.complete = True
        return items

    def end(self) -> Aside:
        if not self.complete and self._reason is None:
            raise ended_early(self._endpoint)
        return Aside("finish", {"reason": self._reason, "usage": self._usage})

    def _chunk(self, chunk: dict[str, Any]) -> list[str | Aside]:
        if chunk.get("error") or chunk.get("object") == "error":
            raise failed(self._endpoint, chunk)
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        items: list[str | Aside] = []
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):  # of several answers the first is spoken
                self._choice(choice, items)
        return items

    def _choice(self, choice: dict[str, Any], items: list[str | Aside]) -> None:
        if choice.get("error"):
            raise failed(self._endpoint, choice)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._reason = reason
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            # A server that cannot stream gives the message; one that repeats all of it at the end is not to be heard twice.
            delta = choice.get("message")
            if not isinstance(delta, dict) or self._has_text:
                return
        for text in _texts(delta.get("content")):
            self._has_text = True
            items.append(text)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            items.append(Aside("refusal", {"text": refusal}))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            items += _tool_call(call)
        if delta.get("function_call"):  # its name until 2023
            items += _tool_call({"index": 0, "function": delta["function_call"]})


def _texts(content: object) -> list[str]:
    """The text in a `content`, which is a string or (Mistral) a list of parts, some of them thinking."""
    if isinstance(content, str):
        return [content] if content else []
    if not isinstance(content, list):
        return []
    parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
    return [text for part in parts if isinstance(text := part.get("text"), str) and text]


def _tool_call(call: object) -> list[Aside]:
    """A piece of a tool call: `arguments` of the same `index` are to be joined."""
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return []
    known = {"index": call.get("index", 0), "id": call.get("id"), **{key: function.get(key) for key in ("name", "arguments")}}
    return [Aside("tool_call", {key: value for key, value in known.items() if value is not None})]
