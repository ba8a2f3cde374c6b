from __future__ import annotations

import json
import re
import sys
import tomllib
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2ws.errors import ConfigError
from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Boundary, Fragment, Hold, Piece, Policy

DATA = Path(__file__).parent.parent / "data" / "fragmenter"
SCRIPTS = json.loads((DATA / "scripts.json").read_text("utf-8"))
GOLDEN = json.loads((DATA / "golden.json").read_text("utf-8"))
LINES = json.loads((DATA / "lines.json").read_text("utf-8"))
LANGUAGES = json.loads((DATA / "languages.json").read_text("utf-8"))
MARKED = tomllib.loads((DATA.parent / "segment" / "texts.toml").read_text("utf-8"))["text"]
WHOLE = json.loads((DATA / "whole.json").read_text("utf-8"))
INCREMENTAL = [Policy.WORD, Policy.CLAUSE_FIRST, Policy.SENTENCE]


def tokens(text: str) -> list[str]:
    """Like a tokenizer: a space goes with the word after it, long words are split."""
    return re.findall(r"\s?\w{1,5}|\s+|[^\w\s]{1,2}", text)


def pieces(chunks: list[str]) -> list[Piece]:
    out, at = [], 0
    for chunk in chunks:
        out.append(Piece(chunk, at, at + len(chunk)))
        at += len(chunk)
    return out


def run(
    chunks: list[str], policy: Policy = Policy.SENTENCE, language: str | None = None, max_chars: int = 300
) -> list[Fragment]:
    fragmenter = Fragmenter(policy, language=language, max_chars=max_chars)
    out = [fragment for piece in pieces(chunks) for fragment in fragmenter.feed(piece)]
    return out + fragmenter.finish()


def ways(text: str) -> list[list[str]]:
    return [[text], tokens(text), list(text)]


def texts(fragments: list[Fragment]) -> list[str]:
    return [fragment.text for fragment in fragments]


# --- what is cut, and what is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_ends_its_sentences_its_own_way(script: str) -> None:
    passages = SCRIPTS[script]["passages"]
    assert len(passages) >= 5
    for passage in passages:
        for chunks in ways(SCRIPTS[script]["join"].join(passage)):
            assert [text.strip() for text in texts(run(chunks))] == passage


@pytest.mark.parametrize("entry", MARKED, ids=lambda entry: f"{entry['language']} {entry['text'].split()[0]}")
def test_sentences_end_where_a_reader_marked_them(entry: dict[str, Any]) -> None:
    """Positions count letters and digits: markup and quotation marks may stand on either side."""

    def ends(parts: list[str]) -> list[int]:
        return list(accumulate(sum(map(str.isalnum, part)) for part in parts if any(map(str.isalnum, part))))

    found = texts(run(tokens(entry["text"].replace("¦", "")), language=entry["language"]))
    wrong = [text for end, text in zip(ends(found), found, strict=False) if end not in ends(entry["text"].split("¦"))]
    assert set(ends(entry["text"].split("¦"))) <= set(ends(found))
    assert wrong == entry.get("known_wrong", [])


@pytest.mark.parametrize("language", LANGUAGES)
def test_abbreviations_numbers_and_quotations_of_a_language(language: str) -> None:
    for passage in LANGUAGES[language]:
        for chunks in ways(" ".join(passage)):
            assert [text.strip() for text in texts(run(chunks, language=language))] == passage


@pytest.mark.parametrize("expected", GOLDEN["rules"], ids=lambda rule: rule[0][:30])
def test_golden_rules(expected: list[str]) -> None:
    deviates = any(expected[0].startswith(start) for start in GOLDEN["known_deviations"])
    for chunks in ways(" ".join(expected)):
        found = [text.strip() for text in texts(run(chunks, language="en"))]
        assert (found == expected) is not deviates


def test_at_most_four_golden_rules_are_known_to_fail() -> None:
    assert len(GOLDEN["rules"]) == 48
    assert len(GOLDEN["known_deviations"]) <= 4


@pytest.mark.parametrize("kind", LINES)
def test_lines_are_structure_and_soft_wraps_are_not(kind: str) -> None:
    for chunks in ways("".join(LINES[kind])):
        assert texts(run(chunks)) == LINES[kind]


@pytest.mark.parametrize("text", [text for kind, found in WHOLE.items() if kind != "about" for text in found])
def test_never_cut_inside(text: str) -> None:
    for chunks in ways(text):
        assert texts(run(chunks)) == [text]
    follows = text + (" Next one." if text.isascii() else " \n\nNext one.")
    assert texts(run([follows]))[0].rstrip() == text


def test_the_first_fragment_ends_at_a_clause_and_later_ones_at_sentences() -> None:
    text = "When you open the settings page, which is hidden behind the icon, you see tabs. Choose the last one, then stop."
    found = run(tokens(text), Policy.CLAUSE_FIRST)
    assert texts(found) == [
        "When you open the settings page,",
        " which is hidden behind the icon, you see tabs.",
        " Choose the last one, then stop.",
    ]
    assert [fragment.boundary for fragment in found] == [Boundary.CLAUSE, Boundary.SENTENCE, Boundary.END]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Sure! The capital of Australia is Canberra, of course.", "Sure!"),
        ("Restart the app now — otherwise the change has no effect at all.", "Restart the app now —"),
        ("The ticket costs about 1,250 dollars now, which is rather a lot.", "The ticket costs about 1,250 dollars now,"),
        ("There is one more thing: the meeting at 10:30 was moved.", "There is one more thing:"),
        ("北京是中国的首都和政治中心，人口超过两千万。", "北京是中国的首都和政治中心，"),
        ("He said “I am not so sure,” and then he left the room.", "He said “I am not so sure,”"),
        ("Anna Smith 04/26/2001 07:17 AM Will you be there tomorrow?", "Anna Smith 04/26/2001 07:17 AM"),
        ("Anna Smith 2001-04-26 19:17 Will you be there tomorrow?", "Anna Smith 2001-04-26 19:17"),
        (
            "It is due on 4/5 at 7:17 and nobody has begun to write it yet, I fear.",
            "It is due on 4/5 at 7:17 and nobody has begun to write it yet,",
        ),
    ],
)
def test_the_first_clause_ends_where_a_speaker_would_breathe(text: str, first: str) -> None:
    for chunks in ways(text):
        assert run(chunks, Policy.CLAUSE_FIRST)[0].text == first


@pytest.mark.parametrize(
    ("rest", "first"),
    [
        (" because the boats would not come back before night.", " because the boats would not come back before night."),
        (" towards the rocks while the boats that lay there rose.", " towards the rocks"),
        (" towards the rocks and the boats that lay behind them in the harbour of the town.", " towards the rocks"),
        (" towards the grey rocks and he saw the other boats.", " towards the grey rocks and he saw the other boats."),
        (
            " towards the old grey rocks of the bay and he saw that the boats had gone.",
            " towards the old grey rocks of the bay",
        ),
        (
            " towards the rocks on which nobody of those who lived there had set foot.",
            " towards the rocks",
        ),
    ],
)
def test_where_no_punctuation_comes_in_time_the_first_clause_ends_before_a_conjunction(rest: str, first: str) -> None:
    head = "The old lighthouse keeper walked slowly down the long stone path"
    for chunks in ways(head + rest):
        assert run(chunks, Policy.CLAUSE_FIRST, "en")[0].text == head + first


def test_the_first_fragment_never_waits_for_more_than_its_longest() -> None:
    fragmenter = Fragmenter(Policy.CLAUSE_FIRST, first_max_chars=40)
    found = [fragmenter.feed(piece) for piece in pieces(list("wonderfully " * 4))]
    [(given, first)] = [(count, fragment) for count, out in enumerate(found, 1) for fragment in out]
    assert given == 40 + 40 // 8 + 1
    assert first.boundary is Boundary.LENGTH
    assert first.text == "wonderfully wonderfully wonderfully"


def test_words_leave_with_the_white_space_after_them() -> None:
    fragmenter = Fragmenter(Policy.WORD)
    found = [texts(fragmenter.feed(piece)) for piece in pieces([" Hel", "lo", " wor", "ld.", "\n", "你好，世界。再见", ""])]
    assert found == [[], [], [" Hello"], [], [" world."], ["\n你好，", "世界。"], []]
    assert texts(fragmenter.finish()) == ["再见"]


def test_tokens_pass_untouched() -> None:
    chunks = [" Hel", "lo,", " ", "\n\n", "world"]
    assert texts(run(chunks, Policy.TOKEN)) == chunks
    assert [len(text) for text in texts(run(["x" * 700], Policy.TOKEN))] == [300, 300, 100]


def test_ordinals_depend_on_the_language() -> None:
    assert len(run(["Sie wohnt in der 3. Etage. Er kam am 12. Dezember."], language="de")) == 2
    assert len(run(["He lives in room 3. Dinner is at seven."], language="en")) == 2


# --- holding and release ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("and then", {Hold.NOTHING}),
        ("Sure.", {Hold.CAPITAL}),
        ("Sure. ", {Hold.CAPITAL}),
        ("Sure!", {Hold.CAPITAL}),
        ("好。", {Hold.SURE}),
        ("Ask Dr.", {Hold.DOUBT}),
        ("It is 3.", {Hold.DOUBT, Hold.CAPITAL}),
        ("3.", {Hold.NOTHING, Hold.DOUBT}),
        ("in the U.S.", {Hold.DOUBT}),
        ("by J.", {Hold.DOUBT}),
        ("in the U.S. Sh", {Hold.NOTHING}),
        ("version 3.1", {Hold.NOTHING}),
        ("a <b", {Hold.NOTHING}),
        ("A short line\n", {Hold.SURE, Hold.CAPITAL}),
        ("...", {Hold.NOTHING}),
        ("", {Hold.NOTHING}),
    ],
)
def test_what_is_held_and_why(text: str, holds: set[Hold]) -> None:
    for chunks in ways(text):
        fragmenter = Fragmenter(Policy.SENTENCE, language="en")
        for piece in pieces(chunks):
            fragmenter.feed(piece)
        assert fragmenter.holding.hold in holds
        assert fragmenter.holding.why


def test_a_pause_releases_the_held_end() -> None:
    fragmenter = Fragmenter(Policy.SENTENCE)
    assert fragmenter.feed(Piece("Sure.", 0, 5)) == []
    [released] = fragmenter.release()
    assert (released.text, released.boundary, released.start, released.end) == ("Sure.", Boundary.PAUSE, 0, 5)
    assert fragmenter.release() == []
    assert fragmenter.holding.hold is Hold.NOTHING
    assert fragmenter.feed(Piece(" And then, well", 5, 20)) == []
    assert fragmenter.release() == []
    assert texts(fragmenter.release(clause=True)) == []  # too short
    fragmenter.feed(Piece(", it went on", 20, 32))
    assert texts(fragmenter.release(clause=True)) == [" And then, well,"]
    assert texts(fragmenter.finish()) == [" it went on"]


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        Fragmenter(max_chars=0)


def test_a_finished_fragmenter_begins_anew() -> None:
    fragmenter = Fragmenter(Policy.CLAUSE_FIRST)
    text = "```\nOne line of code, one more"
    first = fragmenter.feed(Piece(text, 0, len(text))) + fragmenter.finish()
    again = fragmenter.feed(Piece(text, 0, len(text))) + fragmenter.finish()
    assert first == again
    assert fragmenter.finish() == []


# --- spans ------------------------------------------------------------------------------------------------------------


def test_a_span_that_is_not_divided_belongs_to_the_fragment_it_begins_in() -> None:
    fragmenter = Fragmenter(Policy.SENTENCE)
    found = fragmenter.feed(Piece("See ", 0, 4))
    found += fragmenter.feed(Piece("the code. It is long", 4, 500))  # stands for 496 characters
    found += fragmenter.feed(Piece(" Then. Go", 510, 519))
    found += fragmenter.finish()
    assert [(f.text, f.start, f.end) for f in found] == [
        ("See the code.", 0, 500),
        (" It is long Then.", 500, 516),
        (" Go", 516, 519),
    ]


# --- properties -------------------------------------------------------------------------------------------------------

_PROSE = "Dr. U.S. e.g. 3. 3.5 etc. Then then I Well It's he. z. B. usw. т. е. p.m. vol. II https://a.b/c?d=e No?"
_MARKS = '“Yes.” " (so.) ... … . ! ?! : , ; — -- - 1. 2) a) * ** ` ``` ~~~ # ## | > < <b> </b \\{ } [1] [ ]'
_SCRIPTS = "好。 吗？ 」 「 と ไทย ครับ नमस्ते। ; Τι; 🎉 ✍️ 👩\u200d👩\u200d👧 🇩🇪 e\u0301"
_WORDS = st.sampled_from([*_PROSE.split(), *_MARKS.split(), *_SCRIPTS.split(), "\n", "\n\n", "\r\n", "\t"])
_TEXT = st.lists(st.one_of(_WORDS, st.just(" "), st.text(max_size=3)), max_size=40).map("".join)


def _chunked(text: str, sizes: list[int]) -> list[str]:
    out, at = [], 0
    for size in sizes:
        out.append(text[at : at + size])
        at += size
    return [*out, text[at:]]


_SIZES = st.lists(st.integers(0, 7), max_size=60)


@given(text=_TEXT, sizes=_SIZES, policy=st.sampled_from(INCREMENTAL), max_chars=st.sampled_from([25, 300]))
@settings(max_examples=400, deadline=None)
def test_cuts_do_not_depend_on_the_chunks_and_nothing_is_lost(
    text: str, sizes: list[int], policy: Policy, max_chars: int
) -> None:
    whole = run([text], policy, max_chars=max_chars)
    assert "".join(texts(whole)) == text
    assert [f.index for f in whole] == list(range(len(whole)))
    assert all(0 < len(f.text) <= max_chars for f in whole)
    assert [(f.start, f.end) for f in whole] == [(f.start, f.start + len(f.text)) for f in whole]
    assert run(_chunked(text, sizes), policy, max_chars=max_chars) == whole
    assert run(list(text), policy, max_chars=max_chars) == whole


@pytest.mark.parametrize(
    "text",
    [
        "…\n``` -- while 3. ... ?! or ``` 04/26/2001 words\n(paren) [\nIt's > т. <",  # a cut inside a line with a fence
        "Τι; It's `` clause: <b> but\\{z. \tB. ไทย \t word II B. It's etc. \n\n ",  # a cut inside a Roman numeral
        "नमस्ते।Dr. 3. Dr.",
        "Dr.Dr.Dr.Dr.:[1] ",
    ],
)
@pytest.mark.parametrize("policy", INCREMENTAL)
def test_what_once_depended_on_the_chunks(text: str, policy: Policy) -> None:
    whole, by_token, by_character = (run(chunks, policy, max_chars=25) for chunks in ways(text))
    assert whole == by_token == by_character


@given(text=_TEXT, sizes=_SIZES, places=st.lists(st.tuples(st.integers(0, 80), st.booleans()), max_size=4))
@settings(max_examples=300, deadline=None)
def test_releases_at_the_same_places_give_the_same_cuts(text: str, sizes: list[int], places: list[tuple[int, bool]]) -> None:
    stops = sorted({min(place, len(text)): clause for place, clause in places}.items())

    def cut(sizes: list[int] | None) -> list[Fragment]:
        fragmenter, out, at = Fragmenter(Policy.CLAUSE_FIRST), [], 0
        for stop, clause in [*stops, (len(text), False)]:
            part = text[at:stop]
            for chunk in [part] if sizes is None else _chunked(part, sizes):
                out += fragmenter.feed(Piece(chunk, at, at + len(chunk)))
                at += len(chunk)
            out += fragmenter.release(clause=clause)
        return out + fragmenter.finish()

    assert "".join(texts(cut(None))) == text
    assert cut(sizes) == cut(None) == cut([1] * 80)


_GRAPHEMES = st.sampled_from(
    ["a", "e\u0301\u0308", "👩\u200d👩\u200d👧", "🇩🇪", "✍\ufe0f", "👍🏽", "\u1100\u1161\u11a8", "क्षि", "1\ufe0f\u20e3"]
)


@given(graphemes=st.lists(_GRAPHEMES, min_size=10, max_size=80), max_chars=st.integers(12, 40))
@settings(max_examples=200, deadline=None)
def test_graphemes_stay_whole(graphemes: list[str], max_chars: int) -> None:
    whole = set(accumulate(map(len, graphemes)))
    assert {fragment.end for fragment in run(["".join(graphemes)], max_chars=max_chars)} <= whole


# --- cost -------------------------------------------------------------------------------------------------------------

_LONG = {
    "prose": "The quick brown fox, which was old, jumped over Dr. Smith. It cost $3.50 then. ",
    "no punctuation": "word another thing really more ",
    "short lines": "one line\nanother\n",
    "decimals and names": "3.14 2.71 main.c a.b.c config.json ",
    "bullet": "word more text ",
    "nested markup": "**a *b `c` d* e** [x](y) ",
    "open bold": "** word ",
    "open tag": "<b word ",
    "open bracket": "[ word ",
    "one word": "abcdefghij",
    "thai": "กขคงจ",
    "newlines": "\n",
    "dots": ".",
}
_START = {"bullet": "- item\n", "open bold": "**", "open tag": "<", "open bracket": "["}


def _calls(fragmenter: Fragmenter, chunks: list[str]) -> tuple[int, int]:
    """Calls made, of Python and of C, and the most characters held."""
    calls = held = 0

    def count(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    at = 0
    sent = 0
    for chunk in chunks:
        piece = Piece(chunk, at, at + len(chunk))
        at += len(chunk)
        sys.setprofile(count)
        out = fragmenter.feed(piece)
        sys.setprofile(None)
        sent += sum(len(fragment.text) for fragment in out)
        held = max(held, at - sent)
    return calls, held


@pytest.mark.parametrize("kind", _LONG)
@pytest.mark.parametrize("policy", [Policy.SENTENCE, Policy.CLAUSE_FIRST])
def test_cost_per_token_is_flat_and_holding_is_bounded(kind: str, policy: Policy) -> None:
    """What is held is bounded, and so is what one call can scan: a flat number of calls a token is a flat cost."""
    text = (_START.get(kind, "") + _LONG[kind] * (20_000 // len(_LONG[kind]) + 1))[:20_000]
    chunks = [text[at : at + 4] for at in range(0, len(text), 4)]
    fragmenter = Fragmenter(policy, language="en")
    early, _ = _calls(fragmenter, chunks[:2_000])
    late, held = _calls(fragmenter, chunks[3_000:])
    assert late <= early * 1.15 + 50
    assert held <= 300 + 4
    assert early / 2_000 < 100
