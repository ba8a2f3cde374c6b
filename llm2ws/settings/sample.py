"""The settings file with every setting, its default and what it is for: `config/llm2ws.toml` is made by it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from .fields import ClientLimits, Key, Llm, Model, Play, Secret, Server, Settings, Speech, SpeechLimits, TextSettings, Voice
from .schema import SettingPath, describe, description_of, fields_of, is_table

__all__ = ["sample"]


def sample() -> str:
    """Return the settings file: every setting with its default and what it is for. Tables of any name are commented out."""
    out = [
        "# llm2ws: every setting, its default, and why one would change it. Read from --config, else $LLM2WS_CONFIG, else",
        "# ~/.config/llm2ws/llm2ws.toml and /etc/llm2ws/llm2ws.toml. The environment is stronger: LLM2WS_TEXT__MAX_CHARS=200.",
        "",
        *_sample_of(Settings, ()),
        *_sample_of(TextSettings, ("text",)),
        f"# {'[text.replace]':30} # {describe(('text', 'replace'))}",
        '# "nginx" =                      # for example: engine x (unset)',
        "",
        *_sample_of(Play, ("play",)),
        *_sample_of(Server, ("server",)),
        *_sample_of(ClientLimits, ("server", "limits")),
        *_sample_of(Key, ("server", "keys"), off="# ", unset=True),
        "# Under any name; several may stand side by side.",
        *_sample_of(Llm, ("llm", "echo"), off="# "),
        *_sample_of(Speech, ("speech", "deepgram"), off="# "),
        *_sample_of(SpeechLimits, ("speech", "deepgram", "limits"), off="# "),
        *_sample_of(Voice, ("voices", "alloy"), off="# ", unset=True),
        *_sample_of(Model, ("models", "tts-1"), off="# ", unset=True),
    ]
    return "\n".join(out).rstrip() + "\n"


def _sample_of(section: type[msgspec.Struct], path: SettingPath, *, off: str = "", unset: bool = False) -> Iterator[str]:
    """Yield the lines of a table. `off`: what comments them out. `unset`: it is one of any number that have no defaults."""
    if path:
        table = f"[[{'.'.join(path)}]]" if path == ("server", "keys") else f"[{'.'.join(path)}]"
        yield f"{off}{table:30} # as many as there are (unset)" if unset else f"{off}{table}"
    for name, field in fields_of(section).items():
        if not is_table((*path, name)) and (*path, name) != ("server", "keys"):
            value = field.default.reveal() if isinstance(field.default, Secret) else field.default
            missing = unset or value is None
            line = f"{name} =" if missing else f"{name} = {json.dumps(value)}"
            comment = description_of(field.type) + (" (unset)" if missing else "")
            yield f"{off or ('# ' if missing else '')}{line:30} # {comment}"
    yield ""
