"""Adapters of the Fragmenter for sentence benchmarks, and a small bench of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Piece, Policy

__all__ = ["clause_first", "sentence"]


def _run(tokens: Iterable[str], lang: str | None, policy: Policy) -> Iterator[tuple[str, int]]:
    fragmenter = Fragmenter(policy, language=lang)
    at = count = 0
    for token in tokens:
        count += 1
        end = at + len(token)
        for fragment in fragmenter.feed(Piece(token, at, end)):
            yield fragment.text, count
        at = end
    for fragment in fragmenter.finish():
        yield fragment.text, count


def sentence(tokens: Iterable[str], lang: str | None) -> Iterator[tuple[str, int]]:
    """Sentences, each with the number of tokens read when it left."""
    return _run(tokens, lang, Policy.SENTENCE)


def clause_first(tokens: Iterable[str], lang: str | None) -> Iterator[tuple[str, int]]:
    """The first clause, then sentences."""
    return _run(tokens, lang, Policy.CLAUSE_FIRST)
