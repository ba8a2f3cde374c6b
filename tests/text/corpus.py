"""The corpus of what is said of a text, and how a Cleaner is fed with it."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llm2ws.text.cleaner import Cleaner
from llm2ws.text.fragments import Piece

__all__ = ["CITED", "ENCLOSED", "LATEX", "LEFTOVERS", "OTHERS", "SIGNS", "TAGS", "answers", "cases", "check", "said", "stream"]

DATA = Path(__file__).parent.parent / "data" / "cleaner"


def constructs() -> dict[str, list[tuple[str, str]]]:
    """Raw texts and what is said, by construct."""
    tables = tomllib.loads((DATA / "constructs.toml").read_text("utf-8"))
    return {construct: [(raw, said) for raw, said in table["cases"]] for construct, table in tables.items()}


# What the modules of these names decide, and all else.
CITED = ("sources", "raised")
ENCLOSED = ("code", "think", "mentioned", "fence_ends", "calls", "thoughts", "templates", "glued")
TAGS = ("html", "placeholders")
LATEX = ("math", "formulas")
LEFTOVERS = ("terminals", "line_feeds", "local_addresses")
SIGNS = ("signs",)
OTHERS = tuple(name for name in constructs() if name not in (*CITED, *ENCLOSED, *LATEX, *LEFTOVERS, *SIGNS, *TAGS))


def cases(*names: str) -> list[Any]:
    """Parameters of a test: raw texts and what is said, of these constructs."""
    found = constructs()
    return [pytest.param(raw, said, id=f"{name}: {raw[:30]!r}") for name in names for raw, said in found[name]]


def answers() -> list[Any]:
    """Parameters of a test: whole answers and what is said."""
    table = tomllib.loads((DATA / "answers.toml").read_text("utf-8"))["answer"]
    return [pytest.param(case["raw"], case["said"], id=case["name"]) for case in table]


def said(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def stream(cleaner: Cleaner, chunks: Iterable[str]) -> str:
    pieces: list[Piece] = []
    for chunk in chunks:
        pieces += cleaner.feed(chunk)
    return said(pieces + cleaner.finish())


def tokens(text: str, seed: int) -> Iterable[str]:
    """Chunks of one to seven characters."""
    sizes = random.Random(seed)
    at = 0
    while at < len(text):
        size = sizes.randint(1, 7)
        yield text[at : at + size]
        at += size


def check(raw: str, expected: str) -> None:
    """The text is said as expected, in one piece, by characters and by tokens."""
    cleaner = Cleaner()
    assert stream(cleaner, [raw]) == expected
    assert stream(cleaner, raw) == expected
    for seed in range(5):
        assert stream(cleaner, tokens(raw, seed)) == expected
