"""The golden corpus, and what a caller of the Cleaner relies on."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from llm2ws.text.cleaner import Cleaner, Rules
from llm2ws.text.fragments import Hold, Piece

DATA = Path(__file__).parent.parent / "data" / "cleaner"


def constructs() -> Iterable[tuple[str, str, str]]:
    for construct, table in tomllib.loads((DATA / "constructs.toml").read_text("utf-8")).items():
        for raw, said in table["cases"]:
            yield f"{construct}: {raw[:30]!r}", raw, said


def answers() -> Iterable[tuple[str, str, str]]:
    for case in tomllib.loads((DATA / "answers.toml").read_text("utf-8"))["answer"]:
        yield case["name"], case["raw"], case["said"]


CORPUS = [pytest.param(raw, said, id=name) for name, raw, said in [*constructs(), *answers()]]


def stream(cleaner: Cleaner, chunks: Iterable[str]) -> str:
    pieces: list[Piece] = []
    for chunk in chunks:
        pieces += cleaner.feed(chunk)
    return "".join(piece.text for piece in pieces + cleaner.finish())


def tokens(text: str, seed: int) -> Iterable[str]:
    """Chunks of one to seven characters."""
    sizes = random.Random(seed)
    at = 0
    while at < len(text):
        size = sizes.randint(1, 7)
        yield text[at : at + size]
        at += size


@pytest.mark.parametrize(("raw", "said"), CORPUS)
def test_what_is_said(raw: str, said: str) -> None:
    cleaner = Cleaner()
    assert stream(cleaner, [raw]) == said
    assert stream(cleaner, raw) == said
    for seed in range(5):
        assert stream(cleaner, tokens(raw, seed)) == said
