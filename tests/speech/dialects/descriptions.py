from __future__ import annotations

import tomllib
from pathlib import Path

from llm2ws.audio import AudioFormat
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.described import Described, described
from tests.support import ROOT

SIMPLE = ROOT / "tests" / "vendors" / "simple.toml"


def dialect(path: Path, **setup: object) -> Described:
    given_ = {"url": "", "voice": "", "format": AudioFormat(), **setup}
    return described(tomllib.loads(path.read_text()), "x.toml")(Setup(**given_))  # type: ignore[arg-type]


def changed(path: str, value: object) -> dict[str, object]:
    """The simple one with something else at a path, None for nothing."""
    table = inner = tomllib.loads(SIMPLE.read_text())
    *sections, key = path.split(".")
    for section in sections:
        inner = inner.setdefault(section, {})
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return table
