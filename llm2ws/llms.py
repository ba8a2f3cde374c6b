"""What answers: the kinds of LLM there are, and which one the settings mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .config import key_of
from .errors import ConfigError
from .settings import Llm, Settings
from .sources.aside import Aside
from .sources.failover import Failover, LlmClient
from .sources.prompt import Prompt, conversation
from .sources.text import echo

if TYPE_CHECKING:
    from .sources.model import ModelSettings

__all__ = ["KINDS", "LlmClient", "answer", "choose_llm", "llm_client", "model_settings"]


class _Echo:
    """Answers with what the user said last."""

    who = "the prompt itself"

    def __init__(self, llm: Llm) -> None:
        self._tokens_per_s = llm.tokens_per_s

    async def __aenter__(self) -> None:
        """There is nothing to open."""

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to close."""

    def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        said = conversation(prompt)[-1].get("content")
        return echo(said if isinstance(said, str) else "", tokens_per_s=self._tokens_per_s)

    async def models(self) -> list[str]:
        return []


def _openai(llm: Llm) -> LlmClient:
    from .sources.openai import OpenAIChat

    return OpenAIChat(model_settings(llm))


def _anthropic(llm: Llm) -> LlmClient:
    from .sources.anthropic import AnthropicMessages

    return AnthropicMessages(model_settings(llm))


# What can answer a prompt: a line for each kind.
KINDS: dict[str, Callable[[Llm], LlmClient]] = {"anthropic": _anthropic, "echo": _Echo, "openai": _openai}


def model_settings(llm: Llm) -> ModelSettings:
    """How a model is asked, by its entry in the settings. Raises ConfigError when its key file cannot be read."""
    from .sources.model import ModelSettings

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


def choose_llm(settings: Settings, wanted: str = "") -> tuple[str, Llm]:
    """What answers, and its name. `wanted`: a name in the settings, a kind, or "" for the default.

    Raises ConfigError when it is not known.
    """
    name = wanted or settings.default_llm or next(iter(settings.llm), "echo")
    llm = settings.llm.get(name, Llm())
    kind = llm.kind or name
    if kind not in KINDS:
        known = ", ".join(dict.fromkeys([*settings.llm, *KINDS]))
        raise ConfigError(f"LLM {name!r} is not known", hint=f"give one of {known}")
    return name, replace(llm, kind=kind)


def llm_client(settings: Settings, llm: Llm) -> LlmClient:
    """What answers, not entered yet, with those that answer in its place. Raises ConfigError when one of them is not known."""
    others = [choose_llm(settings, name)[1] for name in llm.failover]
    client = KINDS[llm.kind](llm)
    return Failover([client, *(KINDS[other.kind](other) for other in others)]) if others else client


async def answer(client: LlmClient, prompt: Prompt) -> AsyncGenerator[str | Aside, None]:
    """A source: one answer of what `KINDS` made, which is opened for it and closed after it."""
    async with client, aclosing(client.answer(prompt)) as items:
        async for item in items:
            yield item
