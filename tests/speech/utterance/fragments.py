"""Fragments of a text, and the format and dialect in which they are spoken."""

from __future__ import annotations

from llm2ws.audio import AudioFormat
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.text.fragments import Boundary, Fragment

FORMAT = AudioFormat(sample_rate_hz=8_000)
DIALECT = Deepgram(Setup("", "", FORMAT))


def fragments(*texts: str, boundary: Boundary = Boundary.SENTENCE) -> list[Fragment]:
    at, made = 0, list[Fragment]()
    for index, text in enumerate(texts):
        made.append(Fragment(index, text, at, at + len(text), boundary, "a test"))
        at += len(text)
    return made
