"""Audio that can be decoded into the text that was spoken, word by word."""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

__all__ = ["Char", "Coding", "Renderer", "decode"]


class Char(NamedTuple):
    """A character, and when its audio begins and ends, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Coding:
    """How text becomes 16-bit samples.

    A character is `char_samples` samples whose value is its code point, with the sign changing from one to the next within a
    word, so that "ll" is not one long l. White space is zeros: `sentence_pause_s` after . ! or ?, else `word_pause_s`. Code
    points from 0x7FFF on are all spoken as 0x7FFF.
    The speech under one Flush begins with up to `lead_in_s` of zeros, and each word is drawn out or shortened by the share
    `stretch`, or left as it is: both at random, so that a repeat is never quite the same. With a `stretch` of 0 it is, but for
    its lead-in.
    """

    char_samples: int = 24
    word_pause_s: float = 0.06
    sentence_pause_s: float = 0.25
    lead_in_s: float = 0.2
    stretch: float = 0.0


class Renderer:
    """Turns the texts of one connection into audio. `random` decides its variations."""

    def __init__(self, coding: Coding, sample_rate_hz: int, random: Random) -> None:
        self._coding = coding
        self._rate = sample_rate_hz
        self._random = random
        self._sign = 1
        self._last = " "

    def say(self, text: str) -> bytes:
        """Return the audio of the text under one Flush, which may go on within a word of the text before."""
        return self.timed(text)[0]

    def timed(self, text: str) -> tuple[bytes, list[Char]]:
        """Return the audio of `say`, and the times of its characters."""
        coding, pcm, chars = self._coding, bytearray(), list[Char]()
        if self._last.isspace():
            pcm += self._zeros(self._random.uniform(0, coding.lead_in_s))
            self._sign = 1
        for part in re.findall(r"\s+|\S+", text):
            start_s = len(pcm) / 2 / self._rate
            if part.isspace():
                pcm += self._zeros(coding.sentence_pause_s if self._last in ".!?" else coding.word_pause_s)
                self._sign = 1
            else:
                n = round(coding.char_samples * (1 + self._random.choice((-1, 0, 1)) * coding.stretch))
                for char in part:
                    pcm += struct.pack("<h", self._sign * min(ord(char), 0x7FFF)) * max(1, n)
                    self._sign = -self._sign
            self._last = part[-1]
            each_s = (len(pcm) / 2 / self._rate - start_s) / len(part)
            chars += [Char(char, start_s + n * each_s, start_s + (n + 1) * each_s) for n, char in enumerate(part)]
        return bytes(pcm), chars

    def _zeros(self, seconds: float) -> bytes:
        return bytes(2 * max(1, round(seconds * self._rate)))


def decode(pcm: bytes) -> str:
    """Return the text that a `Renderer` put into audio, each white space one space. Raises ValueError for half a sample."""
    if len(pcm) % 2:
        raise ValueError("half a sample at the end")
    runs = itertools.groupby(struct.unpack(f"<{len(pcm) // 2}h", pcm))
    return " ".join("".join(chr(abs(value)) if value else " " for value, _ in runs).split())
