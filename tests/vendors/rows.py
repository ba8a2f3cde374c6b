"""The vendors that the conformance suite tries: adding one adds a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm2ws.testing import FaultySpeech
from llm2ws.testing.server import SpeechServer
from tests.vendors.cartesia import CartesiaServer
from tests.vendors.deepgram_v2 import DeepgramV2Server
from tests.vendors.elevenlabs import ElevenLabsServer

__all__ = ["ROWS", "Row"]


class Row(NamedTuple):
    """A dialect by its name, the server that speaks it, and the cases that the vendor cannot meet with the reason: two at most.

    Such a case is run as well, and must fail.
    """

    dialect: str
    server: Callable[..., SpeechServer[Any]]
    exceptions: Mapping[str, str] = {}


ROWS = [
    Row("deepgram", FaultySpeech, {"error": "the vendor has no message that fails a turn: it closes the connection"}),
    Row("deepgram-v2", DeepgramV2Server),
    Row("elevenlabs", ElevenLabsServer),
    Row("cartesia", CartesiaServer),
]
