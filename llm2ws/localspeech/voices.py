"""The choice of an espeak-ng voice for the name of a model, a language or a voice."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple
from zlib import crc32

__all__ = ["EspeakVoice", "choose_voice"]


class EspeakVoice(NamedTuple):
    """A voice of espeak-ng: its file, with a variant after a plus sign, and the base pitch (0 to 99)."""

    name: str
    pitch: int = 50


_AURA = re.compile(r"aura-(?:2-)?(?P<speaker>[a-z]+)-(?P<language>[a-z]{2,3}(?:-[a-z0-9]+)*)")

# The English of Deepgram's `en` is American; espeak-ng's is British.
_AURA_LANGUAGE = {"en": "en-us"}

# The clearest of the variants that come with espeak-ng.
_FEMALE = ("f1", "f2", "f3", "f4", "f5", "Annie", "linda", "steph")
_MALE = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
_PITCHES = range(38, 63)

# Deepgram's voices that are described as masculine; the others are feminine.
_MASCULINE = frozenset(
    """
    alvaro angus apollo aquila arcas aries atlas cesare dionisio draco ebisu elio fabian flavio fujin hector helios hermes
    hyperion javier julius jupiter lars luciano mars neptune nestor odysseus orion orpheus perseo perseus pluto roman
    sander saturn sirio valerio zeus
    """.split()  # noqa: SIM905  # forty lines of quoted names say no more
)


def choose_voice(model: str, voices: Mapping[str, str], variants: Collection[str]) -> EspeakVoice | None:
    """Return the voice for a name such as `aura-2-thalia-en`, `de`, `en-us+f3` or `English (Scotland)`, None for others.

    `voices` maps language codes and names, in lower case, to espeak-ng's files; `variants` are the sounds that can be added
    after a plus sign. A Deepgram name gives the same voice every time, and different names give voices that differ in
    variant or pitch.
    """
    if aura := _AURA.fullmatch(model.lower()):
        speaker, language = aura["speaker"], aura["language"]
        file = voices.get(_AURA_LANGUAGE.get(language, language))
        digest = crc32(speaker.encode())
        sounds = [variant for variant in (_MALE if speaker in _MASCULINE else _FEMALE) if variant in variants] or [""]
        variant, pitch = sounds[digest % len(sounds)], _PITCHES[digest // 8 % len(_PITCHES)]
    else:
        base, _, variant = model.partition("+")
        file, pitch = voices.get(base.lower()), 50
        if variant and variant not in variants:
            return None
    if file is None:
        return None
    return EspeakVoice(f"{file}+{variant}" if variant else file, pitch)
