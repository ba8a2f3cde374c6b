"""Judge whether a sentence ends at a stop: one candidate at a time, without state."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .abbreviations import AFTER_TIMES, Words, words_of
from .boundaries import (
    CLOSERS,
    EMOJI,
    LEAD,
    PLAIN,
    PROTECTED_CHARS,
    SURE,
    TAIL,
    WIDE,
    WORD,
    Verdict,
    View,
    cut,
    go_on,
    is_lower,
    is_stop_of_script,
    match_end,
    may_grow,
    wait,
)
from .fragments import Held, Hold
from .languages import guess
from .stop_kinds import LIST_NUMBER, VOWEL, Kind, kind_of_word

__all__ = ["held_stop", "hold_of", "judge"]

_CLOSER = re.compile(f"[{CLOSERS}]")
_ANOTHER = re.compile("[.!?…]")  # behind what closes: "(Foo Inc.)."
_EMOJI_GAP = re.compile(f"\\s*(?:[{EMOJI}][{EMOJI}\\s]*)?")
_LETTER = re.compile(r"[^\W\d_]")
_CASELESS = re.compile("[\u0590-\u10ff\u1200-\u139f\u1700-\u18af\u1950-\u1aaf\ua840-\uabff\uac00-\ud7a3]")
_ARMENIAN = re.compile("[\u0561-\u0587]")
_KANA = re.compile("[\u3041-\u309f]")
_SHORT_NUMBER = re.compile(r"(?:^|[^\d.,])\d{1,3}\Z")  # its decimals may follow: "3.", but not "1969." or "3.50."
# A date as in Korea and Hungary, "2024. 5. 1.": up to one of its stops; and what comes behind that stop, or half of it.
_DATE = re.compile(r"(?:^|\D)\d{4}(?P<month>\. \d{1,2}(?P<day>\. \d{1,2})?)?\Z")
_AFTER_YEAR = re.compile(r"\d{1,2}(?:(?P<half>\.? ?\Z)|\. \d)")
_AFTER_DAY = re.compile("[\uac00-\ud7a3]")
_ROMAN = re.compile("[IVXLC]+")
_LONG_WORD = re.compile("[^\\W\\d_]{5}[.!]\\Z")
_ITEM_MARK = re.compile(r"(?<=\s)[-*•⁃]?[ ]?([0-9]{1,3}|[b-z])\Z")
_BULLETS = re.compile(r"[\s\-*•⁃]*")
_TAG_OPENS = re.compile("[A-Za-z/!?]")

_NO_START: Final = ".,;:!?&/=)]}…%‽‼⁈⁉"  # no sentence begins with these
_CLEAR: Final = ("sure", "mark", "ellipsis")  # the kinds of a stop that ends a sentence if a capital follows
_ENGLISH: Final = words_of("en")  # its abbreviations count in every language
_MARK_BEGINS: Final = " \u00a0\u202f[(【:\ue200"
_CALLED: Final = ("Yahoo", "Jeopardy", "Joomla", "Kahoot")  # names with an exclamation mark: "Yahoo! Inc."
_THAI_ENDS: Final = ("ครับ", "ค่ะ", "คะ", "นะ", "จ้ะ", "จ้า")  # particles that close a sentence


class _Stop(NamedTuple):
    """A stop with white space after it."""

    at: int
    tail: int  # the end of what belongs to it: closing marks, more stops
    gap: int  # the end of the white space
    place: int  # where to cut


def judge(view: View, at: int) -> Verdict:
    """Judge a stop at `at`; or what begins a tag, ends a number of a list, or comes before white space that may be a stop."""
    text, start, end, _, words, _ = view
    char = text[at]
    word = at + 2 < end and text[at + 1] == " " and text[at + 2].isalnum()  # follows: the usual case
    if (
        word
        and text[at + 2].isupper()
        and (
            (char in "!?" and not text.endswith(_CALLED, start, at))
            or (char == "." and _is_ordinary_word(text, start, at, words))
        )
    ):
        return cut(at + 1, "a full stop before a capital")
    if char in "<\\":
        return _protected(view, at)
    if char == ")":
        return _next_item(view, at) or go_on(at + 1)
    if char not in PLAIN and not is_stop_of_script(text, at):
        return _without_stop(view, at)
    if char == "." and at > start and _ARMENIAN.match(text, at - 1):
        return go_on(at + 1)  # in Armenian it stands where others write a colon
    return _by_what_follows(view, at, at + 1 if word else match_end(TAIL, text, at + 1, end))


def _without_stop(view: View, at: int) -> Verdict:
    """Judge a character that is no stop but, before a space, may stand for one."""
    text, char = view.text, view.text[at]
    if char in ";:" or text[at + 1] != " ":
        return go_on(at + 1)
    return _after_thai(view, at + 1) if "\u0e00" <= char <= "\u0eff" else _after_emoji(view, at + 1)


def _by_what_follows(view: View, at: int, tail: int) -> Verdict:
    """Judge a stop at `at`, what belongs to which ends at `tail`."""
    text, _, end, _, _, _ = view
    char = text[at]
    if tail >= end:
        return held_stop(char, tail)
    following = text[tail]
    word = following == " " and text[tail + 1 : tail + 2].isalnum()  # follows: then no mark of a source does
    if not word and following in _MARK_BEGINS and may_grow(text, tail, end):
        return held_stop(char, tail)
    if char in SURE or (char in ";:" and not following.isspace()):
        return _after_sure(view, at, tail)
    if not following.isspace():
        return _before_character(view, at, tail)
    if char == "." and (item := _next_item(view, at)) is not None:
        return item
    gap = match_end(_EMOJI_GAP, text, tail, end)
    line = text.find("\n", tail, gap)
    if line >= 0:
        return go_on(line)  # the end of the line decides
    place = tail + len(text[tail:gap].rstrip())
    return held_stop(char, place) if gap >= end else _after_space(view, _Stop(at, tail, gap, place))


def _before_character(view: View, at: int, tail: int) -> Verdict:
    """Judge a stop at `at` that no white space follows: only in a script without spaces does it end a sentence."""
    text, char = view.text, view.text[at]
    wide = WIDE.match(text, tail) is not None
    if wide and char not in ";:" and at > view.start and WIDE.match(text, at - 1):
        return _after_sure(view, at, tail)
    return cut(tail, "a stop before CJK text") if wide and char in "!?" else go_on(tail)


def held_stop(char: str, place: int) -> Verdict:
    """Wait behind the stop `char`, which nothing but white space and closing marks has followed yet.

    `hold_of` says more, when somebody asks.
    """
    if char in SURE:
        return wait(place, Hold.SURE, "closing marks may follow")
    return wait(place, Hold.CAPITAL, "a capital may follow")


def hold_of(view: View, at: int, verdict: Verdict) -> Held:
    """Tell what a WAIT at `at` holds: a full stop after what may be a number, an initial or an abbreviation is in doubt."""
    text = view.text
    if verdict.hold is Hold.CAPITAL and not view.words.known and text[at] == ".":
        view = _guessed(view, at)
    alone = text[at] == "." and (verdict.at == at + 1 or text[at + 1].isspace())
    if (
        verdict.hold is Hold.CAPITAL
        and alone
        and (kind_of_word(view, at) not in ("sure", "ellipsis") or _SHORT_NUMBER.search(text, max(0, at - 4), at) is not None)
    ):
        return Held(Hold.DOUBT, "may be a number, an initial or an abbreviation")
    return Held(verdict.hold or Hold.NOTHING, verdict.why)


def _is_ordinary_word(text: str, start: int, at: int, words: Words) -> bool:
    """Return whether a plain word that is no abbreviation ends at `at`; `kind_of_word` knows what other words are."""
    written = text[(text.rfind(" ", start, at) + 1 or start) : at]
    if len(written) < 3 or not written.isalpha() or "\u0561" <= written[-1] <= "\u0587" or not written.strip("ivxIVX"):
        return False  # an initial, "z. B."; a number, an address; Armenian; the Roman number of an item
    word = written.lower()
    return word not in words.abbreviations and not word.endswith("str") and VOWEL.search(word) is not None


def _after_sure(view: View, at: int, tail: int) -> Verdict:
    text = view.text
    if text[tail] in "，、；：,;:・":
        return go_on(tail)
    if text[at] == "．" and text[at - 1 : at].isdigit() and text[tail].isdigit():
        return go_on(tail)  # a decimal point
    if view.origin >= 0 and text[at - 1 : at].isdigit() and LIST_NUMBER.match(text, view.origin, at):
        return go_on(tail)  # the Burmese "၁။"
    if _KANA.match(text, tail) and _CLOSER.search(text, at, tail):
        return go_on(tail)  # a quotation inside its sentence: 「…？」と
    return cut(tail, "a full stop of its script")


def _after_space(view: View, stop: _Stop) -> Verdict:
    """Judge a stop that white space follows, by the words of the language that the sentence seems to be in if none is set."""
    kind = _kind_of_stop(view, stop)
    if kind not in _CLEAR and not view.words.known and kind != _kind_of_stop(view._replace(words=_ENGLISH), stop):
        following = WORD.search(view.text, stop.gap, view.end)
        if following is None or following.end() >= view.end:
            return wait(stop.place, Hold.DOUBT)
        view = _guessed(view, stop.at, following[0])
        kind = _kind_of_stop(view, stop)
    return go_on(stop.gap) if kind == "never" else _by_what_begins(view, stop, kind)


def _by_what_begins(view: View, stop: _Stop, kind: Kind) -> Verdict:
    """Judge a stop that white space follows by what begins there."""
    text, end = view.text, view.end
    at, _, gap, place = stop
    if kind == "sure" and text[gap] in "(¿¡“„«":
        return cut(place, "a full stop before an opening mark")
    if text[at] == "." and text[at - 1].isdigit() and (date := _within_date(view, stop)) is not None:
        return date
    lead = gap if text[gap].isalnum() else match_end(LEAD, text, gap, end)
    if lead >= end or (lead + 1 >= end and (text[lead].islower() or (kind == "ends" and text[lead].isalpha()))):
        return wait(place, Hold.CAPITAL if kind in _CLEAR else Hold.DOUBT, "a capital may follow")
    first = text[lead]
    if is_lower(first) and not text[lead + 1].isupper():  # "iPhone" counts as a capital
        return _before_lower(view, stop, kind, lead)
    if first.isdigit():
        return cut(place, "a full stop before a number") if kind in ("sure", "mark") else go_on(gap)
    return _before_capital(view, stop, kind, lead) if first.isalpha() else _before_symbol(view, stop, kind, lead)


def _guessed(view: View, at: int, following: str = "") -> View:
    """Return the view with the words of the language that the sentence seems to be in, if none is set."""
    recent = view.recent + view.text[: view.start]
    words = guess(recent, view.text[view.start : at], following)
    return view if words is None else view._replace(words=words)


def _before_symbol(view: View, stop: _Stop, kind: Kind, lead: int) -> Verdict:
    first = view.text[lead]
    if kind in ("doubt", "ordinal", "ellipsis") or (kind == "number-follows" and first in "§№"):
        return go_on(stop.gap)
    if first in _NO_START and not (first in ".…" and lead > stop.gap and kind == "sure"):
        return go_on(stop.gap)
    return cut(stop.place, "a full stop before a symbol")


def _before_capital(view: View, stop: _Stop, kind: Kind, lead: int) -> Verdict:
    text, (at, _, gap, place) = view.text, stop
    first, before = text[lead], text[at - 1 : at]
    if _KANA.match(first) and _CLOSER.search(text, at, stop.tail):
        return go_on(gap)  # a quotation inside its sentence
    match kind:
        case "ends":  # "5 p.m. (CET)"; "5 p.m. – Dinner"; "52 av. J.-C."
            if "(" in text[gap:lead] or text[gap] in "-–—" or text[lead + 1] == ".":
                return go_on(gap)
            doubt = before in "mM"
        case "ellipsis":
            if before == "[":
                return go_on(gap)  # an omission
            doubt = first == "I"
        case "number-follows":
            doubt = first in "IVXLC" or not text[lead + 1 : lead + 2].isalnum()
        case _:
            doubt = kind in ("doubt", "ordinal") or text.endswith(_CALLED, view.start, at)
    return _by_next_word(view, stop, kind, lead) if doubt else cut(place, "a full stop before a capital")


def _within_date(view: View, stop: _Stop) -> Verdict | None:
    text, start, gap = view.text, view.start, stop.gap
    date = _DATE.search(text[max(start, stop.at - 13) : stop.at])
    if date is None:
        return None
    if date["month"]:
        goes_on = _AFTER_DAY.match(text, gap) is not None if date["day"] else text[gap].isdigit()
        return go_on(gap) if goes_on else None
    rest = _AFTER_YEAR.match(text[gap : min(view.end, gap + 5)])
    if rest is None:
        return None
    return go_on(gap) if rest["half"] is None else wait(stop.place)


def _by_next_word(view: View, stop: _Stop, kind: Kind, lead: int) -> Verdict:
    """Judge a stop where a capital is not enough: after "U.S.", "3 p.m.", before the pronoun "I"."""
    text = view.text
    found = WORD.match(text, lead, view.end)
    if found is None or found.end() >= view.end:
        return wait(stop.place)
    word = found[0].lower().replace("’", "'")
    match kind:
        case "ends":  # "3 p.m. EST", "8 a.m. Monday"
            ends = word not in AFTER_TIMES
        case "ellipsis":  # "Well... I think": the pronoun is no sign of a new sentence
            ends = found[0] != "I"
        case "number-follows":  # "vol. IV", but "the number. I know"
            ends = found[0] in ("A", "I") or (len(found[0]) > 1 and _ROMAN.fullmatch(found[0]) is None)
        case "ordinal" if not view.words.known:
            ends = word not in view.words.ordinal_nouns
        case _:
            initial = len(word) == 1 and text[found.end()] == "."
            ends = not initial and word in view.words.starters
    return cut(stop.place, "the next word begins sentences") if ends else go_on(stop.gap)


def _before_lower(view: View, stop: _Stop, kind: Kind, lead: int) -> Verdict:
    """Judge a stop before a small letter, for scripts and writers without capitals."""
    text, start, end, origin, words, _ = view
    at, tail, gap, place = stop
    if kind == "sure" and _CASELESS.match(text, at - 1):
        return cut(place, "a full stop of a script without capitals")
    spoken = _CLOSER.search(text, at, tail) is not None or text[gap] in "-—–"  # "Yes!" he said; Yes! — he said
    if spoken or kind not in ("sure", "mark") or origin < 0:
        return go_on(gap)
    if text[at] == "?":
        return cut(place, "a question mark")
    word = WORD.match(text, lead, end)
    if word is None or word.end() >= end:
        return wait(place)
    if kind == "sure" and word[0] in words.starters and _LONG_WORD.search(text, start, place):
        return cut(place, "a full stop before a word that begins sentences")
    first = _LETTER.search(text, origin, gap)
    if first is not None and is_lower(first[0]) and gap - start > 12:
        return cut(place, "a full stop in a text without capitals")
    return go_on(gap)


def _kind_of_stop(view: View, stop: _Stop) -> Kind:
    text, at = view.text, stop.at
    if text[at] == "." and (stop.tail == at + 1 or text[at + 1] not in "!?.…"):
        return kind_of_word(view, at) if _ANOTHER.search(text, at + 2, stop.tail) is None else "sure"
    return "ellipsis" if text[at] == "…" or text[at : at + 2] == ".." else "mark"


def _next_item(view: View, at: int) -> Verdict | None:
    """Cut before the next item of a list within a line, "1) this 2) that", written as the one at the start was."""
    text, start = view.text, view.start
    if text[at - 2 : at].isalpha():  # a word
        return None
    mark = _ITEM_MARK.search(text, max(start, at - 8), at)
    if mark is None:
        return None
    label = mark[1]
    before = str(int(label) - 1) if label.isdigit() else chr(ord(label) - 1)
    first = match_end(_BULLETS, text, start, at)
    place = start + len(text[start : mark.start()].rstrip())
    if place <= first or not text.startswith(before + text[at], first):
        return None
    return cut(place, "the next item of a list")


def _protected(view: View, at: int) -> Verdict:
    """Skip a tag or an inline pronunciation as a whole."""
    text, end = view.text, view.end
    if at + 1 >= end:
        return wait(at, why="a tag may begin")
    if text[at] == "<":
        opens, close = _TAG_OPENS.match(text, at + 1) is not None, ">"
    else:
        opens, close = text[at + 1] == "{", "}"
    if not opens:
        return go_on(at + 1)
    stop = min(end, at + PROTECTED_CHARS)
    line = text.find("\n", at, stop)
    found = text.find(close, at, line if line >= 0 else stop)
    if found >= 0:
        return go_on(found + 1)
    if line >= 0 or stop < end:
        return go_on(at + 1)
    return wait(at, why="a tag is open")


def _after_emoji(view: View, at: int) -> Verdict:
    """Cut behind an emoji where the next word begins sentences: there it often stands for the full stop."""
    text, _, end, _, words, _ = view
    word = WORD.match(text, at + 1, end)
    if at + 1 >= end or (word is not None and word.end() >= end):
        return wait(at)
    if word is None or not word[0][0].isupper() or word[0].lower().replace("’", "'") not in words.starters:
        return go_on(at + 1)
    return cut(at, "an emoji before a word that begins sentences")


def _after_thai(view: View, at: int) -> Verdict:
    """Judge white space of Thai and Lao, which have no full stop: it ends phrases, but also sets off numbers and marks."""
    text, start, end, _, _, _ = view
    if at + 1 >= end:
        return wait(at, Hold.CAPITAL, "a new phrase may follow")
    if not "\u0e01" <= text[at + 1] <= "\u0ec4" or text[at + 1] in "ๆฯ":
        return go_on(at + 1)
    ended = at - start >= 15 or text.endswith(_THAI_ENDS, start, at)
    return cut(at, "a phrase space") if ended else go_on(at + 1)
