"""LLMs: the kinds that there are, and which one the settings name."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..errors import ConfigError
from ..sources.aside import Aside
from ..sources.failover import Failover, LlmClient
from ..sources.prompt import Prompt, conversation, question
from ..sources.text import echo
from .fields import Llm, Settings
from .keys import key_of

if TYPE_CHECKING:
    from ..sources.model import ModelSettings
    from ..sources.stream import Shape

__all__ = ["KINDS", "LlmClient", "LlmKind", "choose_llm", "default_llm", "llm_client", "model_settings"]


class _Echo:
    """The kind that answers with what the user said last."""

    who = "the prompt itself"

    def __init__(self, llm: Llm) -> None:
        self._tokens_per_s = llm.tokens_per_s

    async def __aenter__(self) -> None:
        """Open nothing."""

    async def __aexit__(self, *_: object) -> None:
        """Close nothing."""

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        return echo(question(conversation(prompt)), tokens_per_s=self._tokens_per_s)

    async def models(self) -> list[str]:
        return []


def _openai(llm: Llm) -> LlmClient:
    from ..sources.openai import OpenAIChat

    return OpenAIChat(model_settings(llm))


def _anthropic(llm: Llm) -> LlmClient:
    from ..sources.anthropic import AnthropicMessages

    return AnthropicMessages(model_settings(llm))


def _responses(llm: Llm) -> LlmClient:
    from ..sources.responses import OpenAIResponses

    return OpenAIResponses(model_settings(llm))


def _stream(llm: Llm) -> LlmClient:
    from ..sources.stream import HttpStream

    return HttpStream(model_settings(llm), _shape(llm))


def _triton(llm: Llm) -> LlmClient:
    from ..sources.triton import TritonModel

    return TritonModel(model_settings(llm), _shape(llm))


@dataclass(frozen=True, slots=True)
class LlmKind:
    """A row of `KINDS`: how a client is made, and what is known of the vendor.

    `account`: the [llm.<name>] whose key and address are taken by an entry without any; "" for kinds without a vendor.
    `variables`: the vendor's own variables of the environment, and the fields of `account` that they stand for.
    `takes_tools`: whether a request has a place for functions that the model may call.
    """

    make: Callable[[Llm], LlmClient]
    account: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    takes_tools: bool = False

    def __call__(self, llm: Llm) -> LlmClient:
        """Return a client, not entered yet."""
        return self.make(llm)


_OPENAI = {"OPENAI_API_KEY": "api_key", "OPENAI_BASE_URL": "base_url"}

# What can answer a prompt. A new kind is its file in sources/ and a row here.
KINDS: dict[str, LlmKind] = {
    "anthropic": LlmKind(_anthropic, "anthropic", {"ANTHROPIC_API_KEY": "api_key"}, takes_tools=True),
    "echo": LlmKind(_Echo),
    "ndjson": LlmKind(_stream),
    "openai": LlmKind(_openai, "openai", _OPENAI, takes_tools=True),
    "responses": LlmKind(_responses, "openai", _OPENAI, takes_tools=True),
    "sse": LlmKind(_stream),
    "text": LlmKind(_stream),
    "triton": LlmKind(_triton),
}


def model_settings(llm: Llm) -> ModelSettings:
    """Return how a model is asked, by its entry in the settings. Raises ConfigError when its key file cannot be read."""
    from ..sources.model import ModelSettings

    return ModelSettings(
        model=llm.model or None,
        base_url=llm.base_url or None,
        api_key=key_of(llm),  # settings have taken the environment in: nothing else is looked for there
        system=llm.system or None,
        template=llm.template or None,
        temperature=llm.temperature,
        max_tokens=llm.max_tokens,
        stop=llm.stop,
        ca_file=llm.ca_file or None,
        first_token_s=llm.first_token_s,
        stall_s=llm.stall_s,
        max_retries=llm.max_retries,
    )


def _shape(llm: Llm) -> Shape:
    """Return what a server with an API of its own wants and sends. Raises ConfigError for a header that is none."""
    from ..sources.stream import FRAMINGS, Shape

    headers = []
    for number, header in enumerate(llm.headers, 1):
        name, colon, value = header.reveal().partition(":")
        plain = value.isascii() and value.isprintable()  # gRPC takes nothing else
        if not colon or not plain or not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII):
            raise ConfigError(f"headers: the {number}. is no header", hint='write each as "Name: value"')
        headers.append((name, value.strip()))
    return Shape(
        framing=llm.kind if llm.kind in FRAMINGS else "sse",
        request=llm.request,
        text_path=llm.text_path,
        text_events=llm.text_events,
        end=llm.end,
        error_path=llm.error_path,
        cumulative=llm.cumulative,
        headers=headers,
        key_header=llm.key_header,
    )


def default_llm(settings: Settings) -> str:
    """Return the name of the LLM that answers where none is named."""
    return settings.default_llm or next(iter(settings.llm), "echo")


def choose_llm(settings: Settings, wanted: str = "") -> tuple[str, Llm]:
    """Return the name and the settings of an LLM. `wanted`: a name in the settings, a kind, or "" for the default.

    An entry without address and key takes those of its vendor's entry; an entry with an address gets no other entry's key.
    Raises ConfigError for a name that is not known.
    """
    name = wanted or default_llm(settings)
    llm = settings.llm.get(name, Llm())
    kind = llm.kind or name
    if kind not in KINDS and name in settings.llm:
        what = f"llm.{name}.kind: {f'{llm.kind!r} is not known' if llm.kind else 'not set'}"
        raise ConfigError(what, hint=f"give one of {', '.join(KINDS)}")
    if kind not in KINDS:
        known = ", ".join(dict.fromkeys([*settings.llm, *KINDS]))
        raise ConfigError(f"LLM {name!r} is not known", hint=f"give one of {known}")
    if (vendor := settings.llm.get(KINDS[kind].account)) and not (llm.base_url or llm.api_key or llm.api_key_file):
        ca_file = llm.ca_file or vendor.ca_file
        llm = replace(llm, base_url=vendor.base_url, api_key=vendor.api_key, api_key_file=vendor.api_key_file, ca_file=ca_file)
    return name, replace(llm, kind=kind)


def llm_client(settings: Settings, llm: Llm) -> LlmClient:
    """Return the client of an LLM, not entered yet, with those that answer in its place.

    Raises ConfigError when one of these is not known.
    """
    others = [choose_llm(settings, name)[1] for name in llm.failover]
    client = KINDS[llm.kind](llm)
    return Failover([client, *(KINDS[other.kind](other) for other in others)]) if others else client
