"""What holds for every text, however it is chunked."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm2ws.text.cleaner import Cleaner, Rules, _plan
from llm2ws.text.fragments import Hold, Piece

# Whole constructs, halves of them, and what looks like them; chained at random they meet in every order.
PARTS = [
    *(
        "*",
        "**",
        "***",
        "_",
        "__",
        "~~",
        "~",
        "`",
        "``",
        "```",
        "```py\n",
        "~~~",
        "\n```\n",
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "  ",
        "    ",
    ),
    *("# ", "## ", " #", "- ", "-", "* ", "+ ", "1. ", "12", ") ", "> ", ">", "---", "===", "- [ ] ", "- [x] ", "\t"),
    *(
        "|",
        " | ",
        "|-|",
        "|---|:-:|",
        "\n|a|b|\n",
        ":",
        "[",
        "](",
        "]",
        "[^1]",
        "[^1]: ",
        "[a]: ",
        "(",
        ")",
        "[a](b)",
        "[a][b]",
    ),
    *(
        "[a](http://x.y/z(1))",
        "![a](b)",
        "!",
        '"',
        "'",
        "【4†a】",
        "【",
        "<",
        ">",
        "</",
        "<b>",
        "</b>",
        "<br>",
        "<td>",
        "<a b='",
    ),
    *("<think>", "</think>", "<Thinking>", "<script>", "</script>", "<!--", "-->", "<|end|>", "<https://x.y>", "<a@b.c>"),
    *(
        "http",
        "https://",
        "://",
        "www.",
        "example.com/a?b",
        "h",
        "ht",
        "w",
        "ww",
        "&",
        "&amp;",
        "&#8212;",
        "&nbsp;",
        "&zwj;",
        ";",
    ),
    *("$", "$$", "\\", "\\(", "\\)", "\\[", "\\]", "\\*", "^2", "{", "}", '\\{"', "=", "x", "5", "10", ".5", "k"),
    *(
        "$$\n",
        "\\frac{",
        "}{",
        "\\sum_",
        "^{",
        "^\\circ",
        "\\pi",
        "\\left",
        "\\begin{align}",
        "\\end{align}",
        "\\boxed{",
        "\\sqrt[3]{x}",
        "\\\\",
        "$x",
        "$ ",
        " + ",
        "\\,",
    ),
    *("😀", "👍🏽", "👩\u200d💻", "1\ufe0f\u20e3", "🇩🇪", "\u200b", "\u200d", "\u00ad", "é", "这是", "重点", "。", "ی\u200cم"),
    *("~~~\n\n", "\n> ```\n", "\n1. a\n   ```\n   ", "\n``` And so on", "<svg> ", "</svg>", "[THINK]"),
    *(
        "[1]",
        " [2, 3]",
        "[cite: 3]",
        ":contentReference[oaicite:1]",
        "\ue200cite",
        "\ue201",
        "([a.org](https://a.org))",
        "<sup>2</sup>",
    ),
    *("<|tool_call|>", "[TOOL_CALLS]", "[/THINK]", "<function=f>", "</function>", "<｜DSML｜invoke>", "</｜DSML｜invoke>"),
    *("analysisX", "assistantfinal", "<|channel>thought\n", "<channel|>", "<tool_call>", "</tool_call>", "\n\nX", "<<SYS>>"),
    *(".", ",", "?", "word", "Two", "SQL", "New", " York", " City", "C++", "nix"),
]
REPLACE = {
    "SQL": "sequel",
    "New York": "the Apple",
    "New York City": "the Big Apple",
    "C++": "C plus plus",
    "word two": "x",
    "é": "e",
}
soup = st.lists(st.sampled_from(PARTS), max_size=25).map("".join)
anything = st.one_of(soup, st.text(max_size=200), st.text(alphabet="*_~`#-|[]()<>!$\\&\n ax1.", max_size=80))


def clean(
    text: str, cuts: list[int] | None = None, *, releases: frozenset[int] = frozenset(), cleaner: Cleaner | None = None
) -> list[Piece]:
    """The Pieces of a text that is fed in chunks ending at `cuts`, with `release` called where the text is at `releases`."""
    cleaner = cleaner or Cleaner(replace=REPLACE)
    places = sorted({0, len(text), *releases, *(cut for cut in cuts or () if cut < len(text))})
    pieces: list[Piece] = []
    for start, end in pairwise(places):
        pieces += cleaner.feed(text[start:end])
        if end in releases:
            pieces += cleaner.release()
    return pieces + cleaner.finish()


def spoken(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def by_char(pieces: list[Piece]) -> list[tuple[str, int, int]]:
    """Every character with the span behind it: what must not depend on the chunking."""
    found = []
    for text, start, end in pieces:
        if len(text) == end - start:
            found += [(char, start + i, start + i + 1) for i, char in enumerate(text)]
        else:
            found.append((text, start, end))
    return found


@given(anything, st.lists(st.integers(0, 200), max_size=40))
def test_the_chunking_makes_no_difference(text: str, cuts: list[int]) -> None:
    whole = by_char(clean(text))
    assert by_char(clean(text, cuts)) == whole
    assert by_char(clean(text, list(range(len(text))))) == whole


@given(anything, st.lists(st.integers(0, 200), max_size=40), st.frozensets(st.integers(1, 40), max_size=4))
def test_the_chunking_makes_no_difference_between_releases(text: str, cuts: list[int], releases: frozenset[int]) -> None:
    releases = frozenset(place for place in releases if place <= len(text))
    assert by_char(clean(text, cuts, releases=releases)) == by_char(clean(text, releases=releases))


@given(anything, st.lists(st.integers(0, 200), max_size=20))
def test_with_all_rules_off_nothing_changes(text: str, cuts: list[int]) -> None:
    pieces = clean(text, cuts, cleaner=Cleaner(Rules.none()))
    assert spoken(pieces) == text
    assert [span for _, *span in by_char(pieces)] == [[place, place + 1] for place in range(len(text))]


@given(anything, st.lists(st.integers(0, 200), max_size=20), st.sets(st.sampled_from(list(Rules.__slots__))))
def test_spans_rise_and_stand_for_what_is_said(text: str, cuts: list[int], off: set[str]) -> None:
    pieces = clean(text, cuts, cleaner=Cleaner(Rules(**dict.fromkeys(off, False)), code_phrase="<code>"))
    last = 0
    for piece in pieces:
        assert piece.text
        assert last <= piece.start <= piece.end <= len(text)
        last = piece.end
        if len(piece.text) == piece.end - piece.start > 1:
            exact = text[piece.start : piece.end]
            # Besides: in a formula the name of a command is set apart ("\\circ" gives " circ"), and two bars part two cells.
            assert piece.text in (exact, "<code>", exact.replace("\\", " ", 1), exact.replace("||", ", "))


@given(st.lists(anything, min_size=2, max_size=3), st.lists(st.integers(0, 200), max_size=20))
def test_a_cleaner_is_as_new_after_finish(texts: list[str], cuts: list[int]) -> None:
    cleaner = Cleaner(replace=REPLACE)
    for text in texts:
        assert clean(text, cuts, cleaner=cleaner) == clean(text, cuts)
    assert cleaner.holding.hold is Hold.NOTHING


ENCLOSED = [
    *(
        "<think>qq q. Qq?\n\nqq</think>",
        "<mm:think>qq</mm:think>",
        "<|begin_of_thought|>qq<|end_of_thought|>",
        "[THINK]qq[/THINK]",
    ),
    *(
        "<tool_call>\nqq\n</tool_call>",
        "<function=f>qq</function>",
        '<invoke name="f">\nqq\n\nqq\n</invoke>',
        "[TOOL_CALLS]qq[ARGS]{}\n\n",
    ),
    *(
        "<｜tool▁calls▁begin｜>qq<｜tool▁sep｜>qq<｜tool▁calls▁end｜>",
        "<|python_tag|>qq<|eom_id|>",
        "<｜DSML｜invoke>qq</｜DSML｜invoke>",
    ),
    *(
        "<|channel>thought\nqq\n<channel|>",
        "<|channel|>analysis<|message|>qq<|end|>",
        "<script>qq</script>",
        "<!-- qq\n\nqq -->",
    ),
    *('<details type="reasoning">\n> qq\n</details>', "[^1]: qq\n    qq\n\n", "\ue200citeqq\ue201", "```\nqq\n\nqq\n```\n"),
    *("\x1b]0;qq\x07", ":contentReference[oaicite:qq]{index=qq}"),
]


@pytest.mark.parametrize("construct", ENCLOSED)
@pytest.mark.parametrize("before", ["", "Yes.\n"])
def test_nothing_that_is_enclosed_is_said_wherever_the_text_breaks_off(construct: str, before: str) -> None:
    text = f"{before}{construct} The end."
    inner, said = text.index("q"), ""
    for end in range(inner + 1, len(text) + 1):
        cut = text[:end]
        for size in (len(cut), 3, 1):
            said = spoken(clean(cut, list(range(0, end, size)), cleaner=Cleaner()))
            assert "q" not in said.lower(), cut
    assert said.endswith("The end.")


WORDS = st.sampled_from(["one", "Two,", "three.", "x", "42", "isn't", "naïve", "重点"])
PHRASE = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
INLINE = st.one_of(
    PHRASE,
    *(
        PHRASE.map(form.format)
        for form in ("**{}**", "*{}*", "***{}***", "~~{}~~", "`{}`", "[{}](https://a.b/c)", "[**{}**](d)")
    ),
    *(PHRASE.map(form.format) for form in ("![{}](e.png)", "<b>{}</b>", "{}[^1]", "{} 😀", "<think>{}</think>", "<!-- {} -->")),
)
LINE = st.lists(INLINE, min_size=1, max_size=5).map(" ".join)
BLOCK = st.one_of(
    LINE,
    *(
        LINE.map(form.format)
        for form in ("# {}", "- {}", "- [x] {}", "1. {}", "> {}", "| {} | b |\n|---|---|\n| c | d |", "---\n{}")
    ),
    *(PHRASE.map(form.format) for form in ("```py\n{}\n```", "~~~\n**{}**\n~~~", "<think>\n{}\n</think>")),
)
ANSWER = st.lists(BLOCK, min_size=1, max_size=6).map("\n\n".join)


@given(ANSWER, st.lists(st.integers(0, 400), max_size=20))
@example("```\n**a**\n```\n\n[**b**](c)", [])
def test_no_markup_is_left_of_an_answer_that_closes_what_it_opens(text: str, cuts: list[int]) -> None:
    said = spoken(clean(text, cuts))
    for mark in ("```", "~~~", "**", "](", "<think>", "</think>", "![", "<b>", "<!--", "[^1]", "😀", "|"):
        assert mark not in said


@given(soup)
def test_no_think_block_is_said(text: str) -> None:
    """Of the text between two tags nothing is said, whatever stands before, as long as it is not code."""
    before = re.sub(r"[`~<\\$]", "", text)
    assert "secret" not in spoken(clean(f"{before}\n\n<think>{text.replace('</', '')} secret </think> Yes."))


@given(ANSWER, st.integers(0, 400))
def test_a_pause_never_lets_half_of_a_link_or_tag_or_address_go(text: str, place: int) -> None:
    said = spoken(clean(text, releases=frozenset({min(place, len(text))})))
    for mark in ("](", "<think", "</think", "https:", "<!-"):
        assert mark not in said


@given(
    st.text(alphabet=st.characters(exclude_characters="\n", categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=12).filter(
        lambda word: unicodedata.normalize("NFKC", word) == word
    )
)
def test_words_are_never_held(word: str) -> None:
    cleaner = Cleaner()
    cleaner.feed("So")
    said = spoken(cleaner.feed(" " + word))
    if not re.search(r"(?<![a-zA-Z0-9])(?i:h|ht|htt|https?|w{1,3})\Z", word):
        assert said == " " + word
        assert cleaner.holding.hold is Hold.NOTHING


UNITS = [
    *(
        "a word ",
        " ",
        "**a ",
        "*a",
        "_a ",
        "`a",
        "<",
        "<b",
        "<b a=",
        "[",
        "[a](",
        "![",
        "|",
        "| a ",
        "# ",
        "\n- ",
        "\n> ",
        "\\",
        "😀",
    ),
    *(
        "$",
        "$x ",
        "$$",
        "$$\n{",
        "\\(",
        "\\(x^",
        "&a",
        "\n```\n",
        "~~~\n",
        "<think>",
        "http://",
        "[a](b) ",
        "**a** `b` <i>c</i> [d](e)\n",
    ),
]


@pytest.mark.parametrize(
    ("unit", "size", "length"),
    [
        *((unit, 1, 5_000) for unit in UNITS),
        *((unit, 7, 30_000) for unit in UNITS),
        *((unit, 200_000, 200_000) for unit in ("a word ", " ", "**a ", "<b ", "[", "\n```\n", "-", UNITS[-1])),
    ],
)
def test_the_work_grows_with_the_text_and_not_faster(
    unit: str, size: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps, each of which looks at a bounded number of characters; and what is held stays bounded."""
    text = (unit * (length // len(unit) + 1))[:length]
    cleaner = Cleaner(replace=REPLACE)
    steps = 0
    step = Cleaner._step

    def counted(self: Cleaner, *args: object) -> int:
        nonlocal steps
        steps += 1
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Cleaner, "_step", counted)
    for start in range(0, len(text), size):
        cleaner.feed(text[start : start + size])
        assert len(cleaner._state.buf) <= 2100 + size
    cleaner.finish()
    assert steps <= 3 * len(text) + 10


@given(
    parts=st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=12), keys=st.sampled_from([(), ("hat", "c-d", "-^]")])
)
def test_the_quick_search_finds_what_the_full_one_finds(parts: list[str], keys: tuple[str, ...]) -> None:
    text = "".join(parts)
    plan = _plan(Rules(), keys)
    for mode in (plan.prose, plan.code):
        for at in range(len(text) + 1):
            quick, full = mode.search(text, at), mode.trigger.search(text, at)
            assert (quick and quick.span()) == (full and full.span())
