"""What is asked of a model: a prompt or a conversation, with a system prompt and a template around it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import ConfigError

__all__ = ["Message", "Prompt", "check_template", "conversation"]

# One message of a conversation, such as {"role": "user", "content": "Hello"}; passed on as it is.
Message = Mapping[str, object]

# A question, or a conversation whose last message is the user's.
Prompt = str | Sequence[Message]

_FIELD = re.compile(r"\{(system|prompt)\}")


def check_template(template: str) -> None:
    """Raises ConfigError for a template that has no place for the prompt."""
    if "{prompt}" not in template:
        raise ConfigError("template has no {prompt}", hint="write {prompt} where the prompt goes, and {system} if you like")


def conversation(prompt: Prompt, *, system: str | None = None, template: str | None = None) -> list[Message]:
    """The messages to send. The system prompt comes first.

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
