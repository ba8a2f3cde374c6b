#!/usr/bin/env python3
"""How fast is the Fragmenter, and does its cost stay flat? Also its adapters for sentence benchmarks.

    python scripts/bench_segment.py [characters]

Prints, for texts of several kinds, microseconds of CPU per token in the first and in the last tenth of a long stream, and the
length of the longest fragment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from time import process_time

from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Fragment, Piece, Policy

__all__ = ["clause_first", "sentence"]

_KINDS = {
    "prose": ("", "The quick brown fox, which was old, jumped over Dr. Smith. It cost $3.50 then, e.g. on Monday. "),
    "words only": ("", "word another thing really more "),
    "short lines": ("", "one line\nanother\n"),
    "decimals and names": ("", "3.14 2.71 main.c a.b.c config.json "),
    "a bullet, then prose": ("- a bullet\n", "more words of an ordinary kind and then some. "),
    "nested markup": ("", "**a *b `c` d* e** [x](y) > # - "),
    "open bold": ("**", "word and word "),
    "open tag": ("<", "word and word "),
    "open bracket": ("[", "word and word "),
    "open fence": ("```\n", "word and word "),
    "no white space": ("", "abcdefghij"),
    "Chinese": ("", "北京是中国的首都，人口超过两千万。"),
    "Thai": ("", "สวัสดีครับวันนี้อากาศดีมาก "),
}


def _run(tokens: Iterable[str], language: str | None, policy: Policy) -> Iterator[tuple[str, int]]:
    fragmenter = Fragmenter(policy, language=language)
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


def _feed(fragmenter: Fragmenter, pieces: list[Piece]) -> tuple[float, list[Fragment]]:
    start = process_time()
    fragments = [fragment for piece in pieces for fragment in fragmenter.feed(piece)]
    return 1e6 * (process_time() - start) / len(pieces), fragments


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    print(f"{'text':22} {'first us/token':>14} {'last us/token':>14} {'longest':>8}")
    for name, (start, body) in _KINDS.items():
        text = (start + body * (size // len(body) + 1))[:size]
        pieces = [Piece(text[at : at + 4], at, min(at + 4, size)) for at in range(0, size, 4)]
        fragmenter, tenth, longest, sent = Fragmenter(Policy.SENTENCE), len(pieces) // 10, 0, 0
        costs = []
        for begin in range(0, len(pieces), tenth):
            cost, fragments = _feed(fragmenter, pieces[begin : begin + tenth])
            costs.append(cost)
            sent = fragments[-1].end if fragments else sent
            longest = max([longest, *(len(fragment.text) for fragment in fragments)])
        print(f"{name:22} {costs[0]:14.2f} {costs[-1]:14.2f} {longest:8}")
        if size - sent > longest + 400:
            sys.exit(f"{name}: {size - sent} characters were still held at the end")


if __name__ == "__main__":
    main()
