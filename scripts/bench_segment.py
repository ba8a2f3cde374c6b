"""How well and how fast text is cut into sentences, beside other libraries; and whether the cost stays flat.

    scripts/bench segment [--characters 200000]

Texts with hand-marked ends (tests/data/segment) are fed token by token. Positions count letters and digits, so markup and
quotation marks at a boundary do not matter.

F1      of the marked ends; a cut at clause punctuation counts as a false one
wrong   per 1000 sentences, cuts that are neither at a marked end nor at clause punctuation
hold    tokens that arrive after a sentence has ended until all of it is out: mean and the largest
first   tokens until the first fragment: mean
lost    letters and digits that never came out
us      of CPU per token: the median of passes in which the cutters take turns
cold    the same in the first pass: with whatever a cutter sets up when it is first used

Peers are measured if they are installed: pip install sentence-stream stream2sentence pysbd. The second table shows, for long
texts of several kinds, the CPU per token in the first and the last tenth, and the longest fragment.
"""

from __future__ import annotations

import argparse
import importlib
import re
import statistics
import sys
import tomllib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Fragment, Piece, Policy

__all__ = ["clause_first", "sentence"]

TEXTS = Path(__file__).resolve().parent.parent / "tests" / "data" / "segment" / "texts.toml"
MARK = "¦"
PASSES = 15
CLAUSE = ",;:—–،؛，、；：-…"

Cutter = Callable[[Iterable[str], str], Iterator[tuple[str, int]]]
"""Tokens and a language in; fragments out, each with the number of tokens read when it left."""

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


# --- peers -----------------------------------------------------------------------------------------------------------


def _counted(tokens: Iterable[str], read: list[int]) -> Iterator[str]:
    for token in tokens:
        read[0] += 1
        yield token


def _sentence_stream(library: Any) -> Cutter:
    def cut(tokens: Iterable[str], lang: str) -> Iterator[tuple[str, int]]:
        detector, read = library.SentenceBoundaryDetector(), [0]
        for token in _counted(tokens, read):
            for text in detector.add_chunk(token):
                yield text, read[0]
        if rest := detector.finish():
            yield rest, read[0]

    return cut


def _stream2sentence(library: Any) -> Cutter:
    def cut(tokens: Iterable[str], lang: str) -> Iterator[tuple[str, int]]:
        read = [0]
        for text in library.generate_sentences(_counted(tokens, read), language=lang, auto_context=True):
            yield text, read[0]

    return cut


def _pysbd(library: Any) -> Cutter:
    known = importlib.import_module("pysbd.languages").LANGUAGE_CODES

    def cut(tokens: Iterable[str], lang: str) -> Iterator[tuple[str, int]]:
        read = [0]
        text = "".join(_counted(tokens, read))
        for part in library.Segmenter(language=lang if lang in known else "en", clean=False).segment(text):
            yield part, read[0]

    return cut


PEERS: dict[str, tuple[str, Callable[[Any], Cutter]]] = {
    "sentence-stream": ("sentence_stream", _sentence_stream),
    "stream2sentence": ("stream2sentence", _stream2sentence),
    "pysbd (whole text)": ("pysbd", _pysbd),
}


# --- accuracy --------------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    language: str
    kind: str
    tokens: list[str]
    ends: dict[int, int]  # where a sentence ends, in letters and digits, and the token that completes it; but for the last one


class Score(NamedTuple):
    sentences: int
    found: int
    cuts: int
    wrong: int
    holds: list[int]
    firsts: list[int]
    lost: int


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def load() -> list[Text]:
    texts = []
    for entry in tomllib.loads(TEXTS.read_text("utf-8"))["text"]:
        text = entry["text"].replace(MARK, "")
        tokens = re.findall(r"\s?\w{1,5}|\s+|[^\w\s]{1,2}", text)
        sizes = list(accumulate(map(len, tokens)))
        ends, head = {}, ""
        for part in entry["text"].split(MARK)[:-1]:
            head += part
            ends[_letters(head)] = bisect_left(sizes, len(head)) + 1
        ends.pop(_letters(text), None)
        texts.append(Text(entry["language"], entry["kind"], tokens, ends))
    return texts


def measure(cutter: Cutter, texts: list[Text]) -> Score:
    sentences = found = cuts = wrong = lost = 0
    holds: list[int] = []
    firsts: list[int] = []
    for text in texts:
        fragments = list(cutter(text.tokens, text.language))
        sentences += len(text.ends) + 1
        total = _letters("".join(text.tokens))
        at, out = 0, {}  # where each fragment ends, and after how many tokens it was out
        firsts.append(fragments[0][1])
        for fragment, read in fragments:
            if not _letters(fragment):
                continue
            at += _letters(fragment)
            out[at] = read
            if at >= total:
                continue
            cuts += 1
            found += at in text.ends
            soft = re.sub(r"[\s\"'”’»›)\]」*_~`|]+\Z", "", fragment)[-1:] in CLAUSE
            wrong += at not in text.ends and not soft
        lost += total - at
        for end, complete in text.ends.items():
            left = next((read for place, read in out.items() if place >= end), len(text.tokens))
            holds.append(max(0, left - complete))
    return Score(sentences, found, cuts, wrong, holds, firsts, lost)


def timed(cutters: dict[str, Cutter], texts: list[Text]) -> dict[tuple[str, str], list[float]]:
    """By cutter and kind of text, the microseconds of CPU per token in each pass."""
    kinds = {kind: [text for text in texts if text.kind == kind] for kind in ("chat", "prose")}
    costs: dict[tuple[str, str], list[float]] = {}
    for _ in range(PASSES):
        for name, cutter in cutters.items():
            for kind, some in kinds.items():
                start = process_time()
                for text in some:
                    deque(cutter(text.tokens, text.language), maxlen=0)
                cost_s = process_time() - start
                costs.setdefault((name, kind), []).append(1e6 * cost_s / sum(len(text.tokens) for text in some))
    return costs


def accuracy() -> None:
    cutters: dict[str, Cutter] = {"llm2ws": sentence, "llm2ws clause-first": clause_first}
    missing = []
    for name, (module, adapter) in PEERS.items():
        try:
            cutters[name] = adapter(importlib.import_module(module))
        except ImportError:
            missing.append(name)
    texts = load()
    costs = timed(cutters, texts)
    print(
        f"{'cutter':20} {'kind':6} {'F1':>6} {'wrong':>6} {'hold':>5} {'max':>4} {'first':>6} {'lost':>5} {'us':>8} {'cold':>8}"
    )
    for name, cutter in cutters.items():
        for kind in ("chat", "prose"):
            score = measure(cutter, [text for text in texts if text.kind == kind])
            f1 = 200 * score.found / (score.cuts + len(score.holds))
            wrong = 1000 * score.wrong / score.sentences
            hold, first = statistics.fmean(score.holds), statistics.fmean(score.firsts)
            print(
                f"{name:20} {kind:6} {f1:6.1f} {wrong:6.1f} {hold:5.1f} {max(score.holds):4} {first:6.1f} {score.lost:5} "
                f"{statistics.median(costs[name, kind]):8.2f} {costs[name, kind][0]:8.2f}"
            )
    if missing:
        print(f"not installed: {', '.join(missing)}")


# --- cost ------------------------------------------------------------------------------------------------------------


def _feed(fragmenter: Fragmenter, pieces: list[Piece]) -> tuple[float, list[Fragment]]:
    start = process_time()
    fragments = [fragment for piece in pieces for fragment in fragmenter.feed(piece)]
    return 1e6 * (process_time() - start) / len(pieces), fragments


def cost(size: int) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=200_000, help="length of the long texts (%(default)s)")
    size = parser.parse_args().characters
    accuracy()
    print()
    cost(size)


if __name__ == "__main__":
    main()
