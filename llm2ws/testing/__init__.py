"""Parts for tests: a scripted LLM, and a speech endpoint and a network that misbehave on command.

All of them are real: an async generator, a WebSocket server that speaks Deepgram Speak v1 and enforces its limits, a TCP proxy.
`decode` turns the endpoint's audio into text again, so that a test sees which words arrived, in which order and how often.
"""

from __future__ import annotations

from .endpoint import Received
from .faults import Drop, Faults, How
from .network import FaultyNetwork
from .source import script, tokens
from .speech import FaultySpeech
from .voice import Coding, Renderer, decode

__all__ = [
    "Coding",
    "Drop",
    "Faults",
    "FaultyNetwork",
    "FaultySpeech",
    "How",
    "Received",
    "Renderer",
    "decode",
    "script",
    "tokens",
]
