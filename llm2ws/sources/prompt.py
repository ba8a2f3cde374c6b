"""What a model is asked: a prompt or a conversation, with a system prompt and a template around it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import ConfigError

__all__ = ["Message", "Prompt", "RequestTemplate", "check_template", "conversation", "question", "without_system"]

# One message of a conversation, such as {"role": "user", "content": "Hello"}; passed on as it is.
Message = Mapping[str, object]

# A question, or a conversation whose last message is the user's.
Prompt = str | Sequence[Message]

_FIELD = re.compile(r"\{(system|prompt)\}")


def check_template(template: str) -> None:
    """Raise ConfigError for a template without a place for the prompt."""
    if "{prompt}" not in template:
        raise ConfigError("template has no {prompt}", hint="write {prompt} where the prompt goes, and {system} if you like")


def conversation(prompt: Prompt, *, system: str | None = None, template: str | None = None) -> list[Message]:
    """Return the messages to send. The system prompt comes first.

    `template` is put around the last message of the user, for models that want a text and not a conversation: `{prompt}` and
    `{system}` in it are replaced, other braces stay. With `{system}` in it, no message of its own carries the system prompt.
    """
    messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if template is not None:
        last = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=None)
        if last is not None and isinstance(text := messages[last].get("content"), str):
            values = {"prompt": text, "system": system or ""}
            # In one pass: a prompt that holds {system} is text, not a template.
            content = _FIELD.sub(lambda found: values[found[1]], template)
            messages[last] = {**messages[last], "content": content}
            if "{system}" in template:
                system = None
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def without_system(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """Return the system prompt ("" for none) and the other messages, for APIs in which it is no message."""
    system = [_text(message) for message in messages if message.get("role") == "system"]
    return "\n\n".join(filter(None, system)), [message for message in messages if message.get("role") != "system"]


def question(messages: Sequence[Message]) -> str:
    """Return the text of the user's last message, "" for none."""
    return next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")


def _text(message: Message) -> str:
    """Return the text of a message, whose content is a text or a list of parts, such as pictures."""
    match message.get("content"):
        case str(text):
            return text
        case [*parts]:
            return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))
        case _:
            return ""


class RequestTemplate:
    """The request for a server of no known API: JSON in which a text such as "{prompt}" stands for a value.

    Values are put in as values and never pasted into text: a user's words cannot change the request. A place without a value
    is left out with its key. `given`: names whose values the settings hold. Raises ConfigError for a text that is no JSON
    object, for unknown names, and for a value without a place.
    """

    NAMES = ("max_tokens", "messages", "model", "prompt", "stop", "system", "temperature", "top_p")

    def __init__(self, text: str, given: Collection[str] = ()) -> None:
        try:
            self._body = json.loads(text)
        except ValueError as exc:
            raise ConfigError(f"request is no JSON: {exc}", hint=_SUCH_AS) from None
        if not isinstance(self._body, dict):
            raise ConfigError("request is no JSON object", hint=_SUCH_AS)
        self._used = set(_names(self._body))
        if unknown := sorted(self._used - set(self.NAMES)):
            names = ", ".join(f"{{{name}}}" for name in self.NAMES)
            raise ConfigError(f"request: {{{unknown[0]}}} stands for nothing", hint=f"use one of {names}")
        if not self._used & {"messages", "prompt"}:
            raise ConfigError("request has no place for the question", hint='write "{prompt}" or "{messages}" there')
        for name in given:
            if name not in self._used and not (name == "system" and "messages" in self._used):
                hint = f'write "{{{name}}}" there' + (", or {system} into template" if name == "system" else "")
                raise ConfigError(f"{name} is set, and request has no place for it", hint=hint)

    def filled(self, messages: Sequence[Message], values: Mapping[str, object]) -> dict[str, object]:
        """Return the request for a conversation. `values`: those of the other names, None to leave a name out."""
        prompt = question(messages)
        system, others = without_system(messages)
        # A system prompt with a place of its own is not sent a second time.
        messages = others if "system" in self._used else list(messages)
        given = {**values, "messages": messages, "prompt": prompt, "system": system or None}
        filled: dict[str, object] = _filled(self._body, given)
        return filled


_SUCH_AS = """such as '{"prompt": "{prompt}"}'"""
_PLACE = re.compile(r"\{(\w+)\}")


def _names(value: object) -> list[str]:
    match value:
        case str() if place := _PLACE.fullmatch(value):
            return [place[1]]
        case dict():
            return [name for inner in value.values() for name in _names(inner)]
        case list():
            return [name for inner in value for name in _names(inner)]
        case _:
            return []


def _filled(value: Any, given: Mapping[str, object]) -> Any:
    match value:
        case str() if place := _PLACE.fullmatch(value):
            return given.get(place[1])
        case dict():
            filled = ((key, _filled(inner, given)) for key, inner in value.items())
            return {key: inner for key, inner in filled if inner is not None or value[key] is None}
        case list():
            return [_filled(inner, given) for inner in value]
        case _:
            return value
