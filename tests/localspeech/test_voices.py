from __future__ import annotations

import pytest

from llm2ws.localspeech.voices import EspeakVoice, choose_voice

VOICES = {"en-us": "gmw/en-US", "en": "gmw/en", "en-gb": "gmw/en", "de": "gmw/de", "pt-br": "roa/pt-BR", "ja": "jpx/ja"} | {
    "english (scotland)": "gmw/en-GB-scotland"
}
VARIANTS = [*(f"f{n}" for n in range(1, 6)), *(f"m{n}" for n in range(1, 9)), "Annie", "linda", "steph"]


@pytest.mark.parametrize(
    ("model", "voice"),
    [
        ("de", EspeakVoice("gmw/de")),
        ("pt-BR", EspeakVoice("roa/pt-BR")),
        ("en-us+f3", EspeakVoice("gmw/en-US+f3")),
        ("English (Scotland)", EspeakVoice("gmw/en-GB-scotland")),
        ("aura-2-thalia-xx", None),
        ("aura-2-thalia", None),
        ("aura-2-thalia-en+f3", None),
        ("en-us+nobody", None),
        ("en-us+", EspeakVoice("gmw/en-US")),
        ("", None),
        ("../../etc/passwd", None),
        ("gpt-5", None),
    ],
)
def test_names(model: str, voice: EspeakVoice | None) -> None:
    assert choose_voice(model, VOICES, VARIANTS) == voice


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("aura-asteria-en", "gmw/en-US+"),
        ("aura-2-thalia-en", "gmw/en-US+"),
        ("aura-2-athena-en-gb", "gmw/en+"),
        ("Aura-2-Viktoria-DE", "gmw/de+"),
        ("aura-2-izanami-ja", "jpx/ja+"),
    ],
)
def test_a_deepgram_model_speaks_its_language(model: str, file: str) -> None:
    voice = choose_voice(model, VOICES, VARIANTS)
    assert voice is not None
    assert voice.name.startswith(file)
    assert voice == choose_voice(model, VOICES, VARIANTS)


def test_deepgram_models_sound_different_and_of_their_gender() -> None:
    feminine = ["thalia", "asteria", "luna", "hera", "athena", "stella"]
    masculine = ["orion", "arcas", "zeus", "apollo", "hermes", "pluto"]
    voices = [choose_voice(f"aura-2-{name}-en", VOICES, VARIANTS) for name in feminine + masculine]
    assert len(set(voices)) == len(voices)
    assert all(voice and "+m" not in voice.name for voice in voices[:6])
    assert all(voice and "+m" in voice.name for voice in voices[6:])


def test_without_variants_the_plain_voice_speaks() -> None:
    voice = choose_voice("aura-2-thalia-en", VOICES, [])
    assert voice is not None
    assert voice.name == "gmw/en-US"
