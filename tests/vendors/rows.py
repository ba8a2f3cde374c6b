"""The vendors that the conformance suite tries: adding one adds a row."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm2ws.speech.dialect import Dialect, Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.speech.dialects.described import described
from llm2ws.testing import FaultySpeech
from llm2ws.testing.endpoint import FaultyEndpoint
from tests.support import ROOT
from tests.vendors.cartesia import CartesiaServer
from tests.vendors.deepgram_v2 import DeepgramV2Server
from tests.vendors.elevenlabs import ElevenLabsServer
from tests.vendors.simple import SimpleServer

__all__ = ["DESCRIBED", "ROWS", "Row"]


class Row(NamedTuple):
    """A dialect by its name, the server that speaks it, and the cases that the vendor cannot meet with the reason: two at most.

    Such a case is run as well, and must fail.
    """

    dialect: str
    server: Callable[..., FaultyEndpoint[Any]]
    exceptions: Mapping[str, str] = {}
    file: Path | None = None  # which describes it, where it has no code

    def speaks(self, setup: Setup) -> Dialect:
        """The dialect for a Setup."""
        if self.file is None:
            return DIALECTS[self.dialect](setup)
        return described(tomllib.loads(self.file.read_text()), self.dialect)(setup)


_NO_ERROR = {"error": "the vendor has no message that fails a turn: it closes the connection"}

ROWS = [
    Row("deepgram", FaultySpeech, _NO_ERROR),
    Row("deepgram-v2", DeepgramV2Server),
    Row("elevenlabs", ElevenLabsServer),
    Row("cartesia", CartesiaServer),
]

DESCRIBED = [
    Row("speech.toml", FaultySpeech, _NO_ERROR, ROOT / "config" / "speech.toml"),
    Row("simple.toml", SimpleServer, file=ROOT / "tests" / "vendors" / "simple.toml"),
]
