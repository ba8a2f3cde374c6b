"""Is this an end? Character classes, patterns, and the judgement of one candidate; no state.

Each judge sees `text[:end]` and says CUT, NO or WAIT. It never says CUT or NO on what a longer view could change: so the cuts do not
depend on how the input is chunked. "Not there yet" (the view ends) and "not there" stay different things throughout.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

from .abbreviations import Words
from .fragments import Boundary, Held, Hold

__all__ = [
    "CANDIDATE",
    "CANDIDATE_FIRST",
    "NEWLINE",
    "SPEAKABLE",
    "WORD_END",
    "Line",
    "Verdict",
    "best_place",
    "hold_of",
    "is_grapheme_break",
    "is_stop_of_script",
    "judge",
    "judge_clause",
    "judge_line",
    "judge_mark",
    "last_clause_end",
    "line_kind",
    "width",
]

# Ends in any context: CJK, full-width and half-width; Arabic, Urdu; danda; Ethiopic; Armenian; Khmer; Burmese; Tibetan; Mongolian;
# Syriac; Ol Chiki; Meetei Mayek; Vai; Bamum; Lisu; Thai; N'Ko; Coptic; Greek question mark.
_SURE: Final = "。！？｡．؟۔।॥።፧፨։។៕။།༎᠃᠉܀܁܂᱾᱿꯫꘎꘏꛳꛷꓿๚๛߸⳹⁇\u037e"
# Ends only if white space follows: they also stand inside numbers, names and addresses.
_STOPS: Final = ".!?…‽‼⁈⁉"
_CLOSERS: Final = "\"'’”»›)\\]}」』）】》〉〕〗］｝＂＇"
_OPENERS: Final = "\"'“„‘‚«‹(\\[{¿¡「『（【《〈〔〖［｛*_~`"
_EMOJI: Final = (
    "\u200d\ufe0e\ufe0f\u20e3\u231a\u231b\u23e9-\u23fa\u2600-\u2712\u2714-\u2793\u27b0-\u27bf\u2b1b\u2b1c\u2b50\u2b55"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f"
)
_CLAUSE: Final = ",;:—–،؛，、；：၊፣፥፤՝"
_CLAUSE_WIDE: Final = "，、；：၊፣፥፤՝—"
_THAI: Final = "\u0e01-\u0e2e\u0e30-\u0e3a\u0e40-\u0e45\u0e47-\u0e4e\u0e81-\u0ec4\u0ec8-\u0ecd"
# After a letter of Greek a semicolon is the question mark; after one of Armenian a colon is often typed for the full stop.
_ENDS_THERE: Final = {";": re.compile("[\u0370-\u03ff\u1f00-\u1fff]"), ":": re.compile("[\u0561-\u0587]")}

# The next place worth a thought: a stop; what opens a tag; or, before white space, what is a stop only there and in its script.
# One character class first, so that the search is a plain scan.
_ANYWHERE: Final = f"{_STOPS}{_SURE}\n<\\\\"
_PLAIN: Final = frozenset(_STOPS + _SURE + "\n<\\")
_BEFORE_SPACE: Final = f";:){_THAI}{_EMOJI}"
CANDIDATE: Final = re.compile(f'[{_ANYWHERE}{_BEFORE_SPACE}](?:(?<=[{_ANYWHERE}])|(?=[ »”"]))')
CANDIDATE_FIRST: Final = re.compile(f'[{_ANYWHERE}{_BEFORE_SPACE}{_CLAUSE}\\s](?:(?<=[{_ANYWHERE}{_CLAUSE}\\s])|(?=[ »”"]))')
NEWLINE: Final = re.compile("\n")
# For the policy WORD: before white space; after CJK punctuation.
WORD_END: Final = re.compile(
    f"(?<=\\S)(?=\\s)|(?<=[{_SURE}{_CLAUSE_WIDE}」』）】》])(?=[^\\s{_SURE}{_CLAUSE_WIDE}{_CLOSERS}{_STOPS}])"
)
SPEAKABLE: Final = re.compile(r"[^\W_]")

# What still belongs to an ended sentence: more stops, closers, markup, footnote marks, emoji that touch it.
_TAIL = re.compile(
    f"(?:[{_STOPS}{_SURE}{_CLOSERS}*_~`{_EMOJI}]|(?<=[{_STOPS}])[“‘]|[ \u00a0\u202f]»| [\"'](?=\\s)|\\[\\^?\\d{{1,3}}\\])*"
)
_PAIRED = re.compile(f"[{_OPENERS}]")
_FOOTNOTE = re.compile(r"\[\^?\d{0,3}\Z")
_DETACHED = re.compile("[\"']?\\Z")  # after white space: a closing quote may stand there by itself
_QUOTED = re.compile(f"[{_CLOSERS}]")
_LEAD = re.compile(f"(?:[-—–*•·]+ ?)?[{_OPENERS}]*")
_EMOJI_GAP = re.compile(f"\\s*(?:[{_EMOJI}][{_EMOJI}\\s]*)?")
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*['’]?")
_LETTER = re.compile(r"[^\W\d_]")
_WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]")
_CASELESS = re.compile("[\u0590-\u10ff\u1200-\u139f\u1700-\u18af\u1950-\u1aaf\ua840-\uabff\uac00-\ud7a3]")
_ARMENIAN = re.compile("[\u0561-\u0587]")
_KANA = re.compile("[\u3041-\u309f]")
# The word before a full stop, back to white space or an opening mark.
_BEFORE = re.compile(r"[^\s()\[\]{}\"“”„«»‹›*_~`/,;:—–<>!?¡¿…]+\Z")
_SPACED = re.compile(r"(?:^|[\s(])((?:[^\W\d_]{1,2}\.\s){1,3})\Z")  # "z. " before "B.", "и т. " before "д."
# Up to a full stop that only numbers an item: "1", "- **2", "iv", "b".
_LIST_NUMBER = re.compile(r"[\s>]*(?:[-*+•⁃‣][ \t]*)?[*_(#]*[ ]?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})\Z")
_AFTER_NUMBER = re.compile(r"(?:\d|\b[IVXLC]+)[ \u00a0]?\Z")
_LONG_WORD = re.compile("[^\\W\\d_]{5}[.!]\\Z")
_ITEM_MARK = re.compile(r"(?<=\s)[-*•⁃]?[ ]?([0-9]{1,3}|[b-z])\Z")
_BULLETS = re.compile(r"[\s\-*•⁃]*")
_VOWEL = re.compile("[aeiouyäëïöüáéíóúàèìòùâêîôûãõåæøœıаеёиоуыэюяіїєαεηιουωάέήίόύώ]")
_LATIN_GREEK_CYRILLIC = re.compile("[a-zа-яα-ω]+\\Z")

# A tag, or one of Deepgram's inline pronunciations `\{"word": ..., "pronounce": ...}`: never cut, up to a length that keeps holding bounded.
_PROTECTED_CHARS: Final = 160
_TAG_OPENS = re.compile("[A-Za-z/!?]")

_SHORTEST: Final = 0.6  # of the floor: punctuation
_BREATH: Final = 4  # times the floor: conjunctions
_LATE: Final = 5.5  # times the floor: any function word after a content word
_LAST_WORD = re.compile(r"[^\W\d_]+\Z")
_CLAUSE_END = re.compile(f"[{_CLAUSE}{_STOPS}](?=\\s)|[{_CLAUSE_WIDE}{_SURE}]|(?<=\\s)-{{1,2}}(?=\\s)|(?<=\\S)(?=\\s*\n)")
_WHITE = re.compile(r"(?<=\S)(?=\s)")


class Verdict(NamedTuple):
    """What to do about a candidate.

    CUT before `at`; NO, go on from `at`; or WAIT for more text, and if none comes cut before `at`.
    """

    at: int
    boundary: Boundary | None = None  # set: CUT
    hold: Hold | None = None  # set: WAIT
    why: str = ""


class Line(NamedTuple):
    """What kind of line the current one is, as far as its first characters tell."""

    closed: bool  # its end is an end without looking further: a heading, a table row, a fence
    item: bool  # a list item
    fence: str  # the fence that it opens or closes, "" for none


def _no(at: int) -> Verdict:
    return Verdict(at)


def _cut(at: int, why: str, boundary: Boundary = Boundary.SENTENCE) -> Verdict:
    return Verdict(at, boundary, None, why)


def _wait(at: int, hold: Hold, why: str) -> Verdict:
    return Verdict(at, None, hold, why)


def width(text: str, start: int, end: int) -> int:
    """Columns: full-width characters count as two."""
    return end - start + sum(1 for _ in _WIDE.finditer(text, start, end))


# --- full stops and their like ------------------------------------------------------------------------------------


def judge(text: str, start: int, at: int, end: int, words: Words, origin: int) -> Verdict:
    """A stop, a tag, a Thai space or an emoji's space at `at`. `origin`: where the sentence or the line begins, -1 if that has been sent."""
    char = text[at]
    if char in "<\\":
        return _protected(text, at, end)
    if char == ")":
        return _next_item(text, start, at) or _no(at + 1)
    if char == "." and at > start and _ARMENIAN.match(text, at - 1):
        return _no(at + 1)  # in Armenian it stands where others write a colon
    if char not in _PLAIN:
        if char not in _ENDS_THERE:
            if text[at + 1] != " ":
                return _no(at + 1)
            return _thai(text, start, at + 1, end) if "\u0e00" <= char <= "\u0eff" else _after_emoji(text, at + 1, end, words)
        if not is_stop_of_script(text, at):
            return _no(at + 1)
    tail = _TAIL.match(text, at + 1, end).end()  # type: ignore[union-attr]
    sure = char in _SURE or char in ";:" or (at > start and _WIDE.match(text, at - 1) is not None)
    if tail >= end:
        return _held(tail, char in _SURE)
    following = text[tail]
    if following == "[" and _FOOTNOTE.match(text, tail, end):
        return _wait(tail, Hold.NOTHING, "a footnote mark is open")
    if following in " \u00a0\u202f" and _DETACHED.match(text, tail + 1, end):
        return _held(tail, char in _SURE)
    if not following.isspace():
        if sure and (char in _SURE or char in ";:" or _WIDE.match(following)):
            return _after_sure(text, at, tail, following)
        if char in "!?" and _WIDE.match(following):
            return _cut(tail, "a stop before CJK text")
        return _no(tail)
    if char in _SURE:
        return _after_sure(text, at, tail, " ")
    item = _next_item(text, start, at) if char == "." else None
    if item is not None:
        return item
    gap = _EMOJI_GAP.match(text, tail, end).end()  # type: ignore[union-attr]
    line = text.find("\n", tail, gap)
    if line >= 0:
        return _no(line)  # the end of the line decides
    place = tail + len(text[tail:gap].rstrip())
    if gap >= end:
        return _held(place, char in _SURE)
    return _after_space(text, start, at, tail, gap, end, place, words, origin)


def _held(place: int, sure: bool) -> Verdict:
    """Nothing but white space and closing marks has followed the stop yet. `hold_of` tells more, when somebody asks."""
    return (
        Verdict(place, None, Hold.SURE, "closing marks may follow")
        if sure
        else Verdict(place, None, Hold.CAPITAL, "a capital may follow")
    )


def hold_of(verdict: Verdict, text: str, start: int, at: int, words: Words, origin: int) -> Held:
    """What a WAIT at `at` holds: a full stop after what may be a number, an initial or an abbreviation is in doubt."""
    hold = verdict.hold or Hold.NOTHING
    alone = text[at] == "." and (verdict.at == at + 1 or text[at + 1].isspace())
    if hold is Hold.CAPITAL and alone and _kind(text, start, at, words, origin) not in ("sure", "ellipsis"):
        return Held(Hold.DOUBT, "may be a number, an initial or an abbreviation")
    return Held(hold, verdict.why)


def is_stop_of_script(text: str, at: int) -> bool:
    """Whether the semicolon or colon at `at` follows a letter of a script that ends sentences with it."""
    script = _ENDS_THERE.get(text[at])
    return script is not None and at > 0 and script.match(text, at - 1) is not None


def _next_item(text: str, start: int, at: int) -> Verdict | None:
    """A list within a line, "1) this 2) that": the next number, written as the one at `start` was, begins an item."""
    mark = _ITEM_MARK.search(text, max(start, at - 8), at)
    if mark is None:
        return None
    label = mark[1]
    before = str(int(label) - 1) if label.isdigit() else chr(ord(label) - 1)
    first = _BULLETS.match(text, start).end()  # type: ignore[union-attr]
    place = len(text[start : mark.start()].rstrip()) + start
    if place <= first or not text.startswith(before + text[at], first):
        return None
    return _cut(place, "the next item of a list")


def _after_sure(text: str, at: int, tail: int, following: str) -> Verdict:
    if following in "，、；：,;:・":
        return _no(tail)
    if _KANA.match(following) and _QUOTED.search(text, at, tail):
        return _no(tail)  # a quotation inside its sentence: 「…？」と
    return _cut(tail, "a full stop of its script")


def _after_space(
    text: str, start: int, at: int, tail: int, gap: int, end: int, place: int, words: Words, origin: int
) -> Verdict:
    """A stop and white space: what begins there?"""
    char = text[at]
    lead = _LEAD.match(text, gap, end).end()  # type: ignore[union-attr]
    dotted = char == "." and (tail == at + 1 or text[at + 1] not in "!?….")
    kind = (
        _kind(text, start, at, words, origin)
        if dotted
        else ("ellipsis" if text[at : at + 2] == ".." or char == "…" else "mark")
    )
    if kind == "never":
        return _no(gap)
    if kind == "sure" and text[gap] in "(¿¡“„«":
        return _cut(place, "a full stop before an opening mark")
    if lead >= end:
        return _wait(place, Hold.CAPITAL if kind in ("sure", "mark", "ellipsis") else Hold.DOUBT, "a capital may follow")
    first = text[lead]
    quoted = _QUOTED.search(text, at, tail) is not None or text[gap] in "-—–"  # "Yes!" — she said
    if first.islower() and lead + 1 >= end:
        return _wait(place, Hold.CAPITAL, "a capital may follow")
    if _is_lower(first) and not text[lead + 1].isupper():  # "iPhone" counts as a capital
        if kind == "sure" and _CASELESS.match(text, at - 1):
            return _cut(place, "a full stop of a script without capitals")
        return _before_lower(text, start, char, kind, quoted, lead, gap, end, place, words, origin)
    if first.isdigit():
        if kind == "number-follows" or kind in ("doubt", "ellipsis", "ordinal"):
            return _no(gap)
        return _cut(place, "a full stop before a number")
    if not first.isalpha():
        if first in ".…" and lead > gap and kind == "sure":
            return _cut(place, "a full stop before an opening mark")
        if first in ".,;:!?&/=)]}…%" or kind not in ("sure", "mark", "ends", "number-follows") or first in _STOPS:
            return _no(gap)
        return _cut(place, "a full stop before a symbol")
    if kind == "ends" and "(" in text[gap:lead]:
        return _no(gap)
    if kind == "ends" and text[at - 1] in "mM":  # "3 p.m. EST", "8 a.m. Monday"
        word = _WORD.match(text, lead, end)
        if word is None or word.end() >= end:
            return _wait(place, Hold.NOTHING, "the next word tells")
        if word[0].lower() in words.after_times:
            return _no(gap)
    if kind == "ellipsis" and text[at - 1 : at] == "[":
        return _no(gap)  # an omission
    if kind == "ellipsis" and first == "I":  # the pronoun is no sign of a new sentence
        if lead + 1 >= end:
            return _wait(place, Hold.NOTHING, "the next word tells")
        if not text[lead + 1].isalpha():
            return _no(gap)
    if kind in ("doubt", "ordinal"):
        word = _WORD.match(text, lead, end)
        if word is None or word.end() >= end:
            return _wait(place, Hold.NOTHING, "the next word tells")
        if text[word.end()] == "." and word.end() - lead == 1:
            return _no(gap)  # another initial
        if word[0].lower().replace("’", "'") in words.starters:
            return _cut(place, "an abbreviation before a word that begins sentences")
        return _no(gap)
    return _cut(place, "a full stop before a capital")


def _before_lower(
    text: str,
    start: int,
    char: str,
    kind: str,
    quoted: bool,
    lead: int,
    gap: int,
    end: int,
    place: int,
    words: Words,
    origin: int,
) -> Verdict:
    """Writers who use no capitals: only where the sentence itself began without one."""
    if quoted or kind not in ("sure", "mark") or origin < 0:
        return _no(gap)
    if kind == "mark" and char == "?":
        return _cut(place, "a question mark")
    word = _WORD.match(text, lead, end)
    if word is None or word.end() >= end:
        return _wait(place, Hold.NOTHING, "the next word tells")
    if kind == "sure" and word[0] in words.starters and _LONG_WORD.search(text, start, place):
        return _cut(place, "a full stop before a word that begins sentences")
    first = _LETTER.search(text, origin, gap)
    if first is not None and _is_lower(first[0]) and gap - start > 12:
        return _cut(place, "a full stop in a text without capitals")
    return _no(gap)


def _is_lower(char: str) -> bool:
    return char.islower() and not "\u10d0" <= char <= "\u10ff"  # Georgian is caseless in practice


def _kind(text: str, start: int, at: int, words: Words, origin: int) -> str:
    """What the word before the full stop at `at` is: sure, never, doubt, ordinal, ends, number-follows."""
    found = _BEFORE.search(text, max(start, at - 40), at)
    if found is None:
        return "ellipsis" if text[at - 2 : at] == ". " else "sure"
    word = found[0].lower()
    if origin >= 0 and _LIST_NUMBER.match(text, origin, at):
        return "never"
    spaced = _SPACED.search(text, max(start, found.start() - 12), found.start())
    if spaced is not None and len(word) <= 2:
        word = spaced[1].replace(" ", "").replace("\u00a0", "") + word
    if word.isdigit():
        return "ordinal" if len(word) <= 2 and words.ordinal_nouns else "sure"
    if word in words.ends or (word in words.may_end and _AFTER_NUMBER.search(text, start, found.start())):
        return "ends"
    if word in words.never:
        return "never"
    if word in words.may_end:
        return "doubt"
    if word in words.before_number:
        return "number-follows"
    if word.endswith("str") or (len(word) == 2 and found[0].isupper() and word[0] == word[1] and word not in ("ii", "xx")):
        return "doubt"  # "Bahnhofstr."; the doubled letters of a Spanish plural, "EE. UU."
    if len(word) == 1 and _AFTER_NUMBER.search(text, start, found.start()):
        return "ends"  # "350 F.", "5 m."
    if len(word) == 1:
        return "doubt" if word.isalpha() and not _WIDE.match(word) else "sure"
    if "." in word:
        parts = word.split(".")
        return "doubt" if all(len(part) <= 3 and not part.isdigit() for part in parts) else "sure"
    if not found[0].isupper() and _LATIN_GREEK_CYRILLIC.match(word) and not _VOWEL.search(word):
        return "ends" if _AFTER_NUMBER.search(text, start, found.start()) else "doubt"
    return "sure"


def _protected(text: str, at: int, end: int) -> Verdict:
    """A tag or an inline pronunciation is skipped whole."""
    if at + 1 >= end:
        return _wait(at, Hold.NOTHING, "a tag may begin")
    if text[at] == "<":
        opens, close = _TAG_OPENS.match(text, at + 1) is not None, ">"
    else:
        opens, close = text[at + 1] == "{", "}"
    if not opens:
        return _no(at + 1)
    stop = min(end, at + _PROTECTED_CHARS)
    line = text.find("\n", at, stop)
    found = text.find(close, at, line if line >= 0 else stop)
    if found >= 0:
        return _no(found + 1)
    if line >= 0 or stop < end:
        return _no(at + 1)
    return _wait(at, Hold.NOTHING, "a tag is open")


def _after_emoji(text: str, at: int, end: int, words: Words) -> Verdict:
    """An emoji often stands for the full stop; so do not wait for one where the next word begins sentences."""
    word = _WORD.match(text, at + 1, end)
    if at + 1 >= end or (word is not None and word.end() >= end):
        return _wait(at, Hold.NOTHING, "the next word tells")
    if word is None or not word[0][0].isupper() or word[0].lower().replace("’", "'") not in words.starters:
        return _no(at + 1)
    return _cut(at, "an emoji before a word that begins sentences")


_THAI_ENDS: Final = ("ครับ", "ค่ะ", "คะ", "นะ", "จ้ะ", "จ้า")


def _thai(text: str, start: int, at: int, end: int) -> Verdict:
    """Thai and Lao have no full stop: white space ends phrases and sentences, but also sets off numbers and repetition marks."""
    if at + 1 >= end:
        return _wait(at, Hold.CAPITAL, "a new phrase may follow")
    if not "\u0e01" <= text[at + 1] <= "\u0ec4" or text[at + 1] in "ๆฯ":
        return _no(at + 1)
    long = at - start >= 15 or text.endswith(_THAI_ENDS, start, at)
    return _cut(at, "a phrase space") if long else _no(at + 1)


# --- lines ------------------------------------------------------------------------------------------------------------

_LINE_HEAD = re.compile(
    r"[ \t\r>]*(?:(?P<fence>```+|~~~+)|(?P<closed>\#{1,6}[ \t]|\|)|(?P<item>(?:[-*+•‣◦▪–—]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)])[ \t]))"
)
_MAY_BE_HEAD = re.compile(r"[ \t\r>]*(?:[-*+•‣◦▪–—`~#]{1,6}|\(?\d{1,3}[.)]?|\(?[A-Za-z][.)]?)?\Z")
_ENDED = re.compile(f"[{_STOPS}{_SURE}][{_CLOSERS}*_~`{_EMOJI}]*\\Z")
_SHORT_LINE: Final = 50
_LONG_LINE: Final = 110


def line_kind(text: str, start: int, end: int) -> Line:
    head = _LINE_HEAD.match(text, start, end)
    if head is None:
        return Line(closed=False, item=False, fence="")
    fence = "" if head["fence"] is None or "`" in text[head.end() : end] else head["fence"][:3]
    return Line(head["closed"] is not None or fence != "", head["item"] is not None, fence)


def judge_line(text: str, start: int, at: int, end: int, columns: int, line: Line, in_fence: bool) -> Verdict:
    """The line feed at `at`, after a line of so many columns: structure, or a soft wrap?"""
    place = len(text[start:at].rstrip()) + start
    if SPEAKABLE.search(text, start, place) is None:
        return _no(at + 1)
    if in_fence or line.closed:
        return _cut(place, "a line that is one: heading, table row, code")
    last = text[place - 1]
    ended = _ENDED.search(text, max(start, place - 12), place) is not None
    following = _SPACE.match(text, at + 1, end).end()  # type: ignore[union-attr]
    if columns < _SHORT_LINE and not line.item and not ended and last not in ":：" and text[at - 2 : at] != "  ":
        head = _LETTER.search(text, start, place)
        if head is not None and head[0].isupper():
            if following >= end:
                return _wait(place, Hold.SURE, "the next line tells")
            if "\n" not in text[at + 1 : following] and _is_lower(text[following]):
                return _no(at + 1)  # a line that began with a capital goes on without one
    if columns < _SHORT_LINE or columns > _LONG_LINE:
        return _cut(place, "the end of a line")
    if last in ":：" or text[at - 2 : at] == "  " or last == "\\":
        return _cut(place, "the end of a line")
    if "\n" in text[at + 1 : following]:
        return _cut(place, "a blank line")
    if following >= end:
        return _wait(place, Hold.SURE if ended or line.item else Hold.CAPITAL, "the next line tells")
    if _MAY_BE_HEAD.match(text, following, end):
        return _wait(place, Hold.NOTHING, "the next line tells")
    if _LINE_HEAD.match(text, following, end) is not None:
        return _cut(place, "the end of a line before a list item, heading or table")
    first = text[_LEAD.match(text, following, end).end() : end][:1]  # type: ignore[union-attr]
    if not first:
        return _wait(place, Hold.NOTHING, "the next line tells")
    if ended and not _is_lower(first):
        return _cut(place, "a full stop at the end of a line")
    if line.item and following == at + 1 and not _is_lower(first):
        return _cut(place, "the end of a list")
    return _no(at + 1)


# --- clauses and lengths ----------------------------------------------------------------------------------------------


def judge_clause(text: str, start: int, at: int, end: int, words: Words, floor: int) -> Verdict:
    """Clause punctuation or white space at `at`, for the first fragment of a turn.

    Punctuation ends a clause of `floor` columns, or of three words and three fifths of that. Where none came, so do a conjunction
    and two hyphens after `_BREATH` times the floor.
    """
    char = text[at]
    if char.isspace():
        return _judge_breath(text, start, at, end, words, floor)
    tail = at + 1
    columns = width(text, start, tail)
    if columns < floor * _SHORTEST:
        return _no(tail)
    if char in ",،，、" and text[at - 1].isalpha() and _PAIRED.search(text, start, at) is None:
        return _cut(tail, "the end of a clause", Boundary.CLAUSE)  # nothing is open that could close here
    tail = _TAIL.match(text, tail, end).end()  # type: ignore[union-attr]
    if tail >= end:
        return _wait(tail, Hold.NOTHING, "closing marks may follow")
    if char not in _CLAUSE_WIDE and not text[tail].isspace():
        return _no(tail)
    if char == "–" and not text[at - 1 : at].isspace():
        return _no(tail)
    return _cut(tail, "the end of a clause", Boundary.CLAUSE)


def judge_mark(text: str, start: int, at: int, end: int, floor: int) -> Verdict | None:
    """For the first fragment, a question mark, exclamation mark or ellipsis will do whatever follows. None: judge it as usual."""
    if text[at] == "." and text[at - 1] != ".":
        return None
    tail = _TAIL.match(text, at + 1, end).end()  # type: ignore[union-attr]
    if tail >= end:
        return _wait(tail, Hold.CAPITAL, "closing marks may follow")
    if not text[tail].isspace() or width(text, start, tail) < floor * _SHORTEST:
        return None
    return _cut(tail, "a mark that may end a clause", Boundary.SENTENCE if text[at] in "?!" else Boundary.CLAUSE)


def _judge_breath(text: str, start: int, at: int, end: int, words: Words, floor: int) -> Verdict:
    spoken = SPEAKABLE.search(text, start, at)
    columns = width(text, spoken.start(), at) if spoken is not None else 0
    if columns >= floor and text[at - 1] in "-–—" and text[at - 2].isspace():
        return _cut(at, "a dash", Boundary.CLAUSE)
    if columns < floor * _BREATH:
        return _no(at + 1)
    if text[at - 2 : at] == "--":
        return _cut(at, "a dash", Boundary.CLAUSE)
    word = _WORD.match(text, at + 1, end)
    if at + 1 >= end or (word is not None and word.end() >= end):
        return _wait(at, Hold.NOTHING, "the next word tells")
    if word is None or not text[word.end()].isspace():
        return _no(at + 1)
    if word[0] in words.conjunctions:
        return _cut(at, "before a conjunction", Boundary.CLAUSE)
    if columns >= floor * _LATE and word[0] in words.starters:
        before = _LAST_WORD.search(text, start, at)
        if before is not None and before[0].lower() not in words.starters:
            return _cut(at, "before a function word", Boundary.CLAUSE)
    return _no(at + 1)


def _protected_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    return [match.span() for match in _PROTECTED.finditer(text, start, end)]


_PROTECTED = re.compile(rf"</?[A-Za-z!?][^<>\n]{{0,{_PROTECTED_CHARS}}}(?:>|\Z)|\\\{{[^}}\n]{{0,{_PROTECTED_CHARS}}}(?:\}}|\Z)")


def _free(place: int, spans: list[tuple[int, int]]) -> bool:
    return all(not begin < place < stop for begin, stop in spans)


def last_clause_end(text: str, start: int, end: int, floor: int) -> int:
    """The last clause end in `text[start:end]`, `floor` columns or more after `start`; 0 if there is none."""
    spans = _protected_spans(text, start, end)
    places = [m.end() for m in _CLAUSE_END.finditer(text, start, end) if m.end() - start >= floor and _free(m.end(), spans)]
    return places[-1] if places else 0


def best_place(text: str, start: int, end: int) -> int:
    """Where to cut `text[start:end]`, which is too long: a clause end past its first quarter, white space, or between graphemes."""
    place = last_clause_end(text, start, end, (end - start) // 4)
    if place:
        return place
    spans = _protected_spans(text, start, end)
    places = [m.end() for m in _WHITE.finditer(text, start, end) if m.end() > start and _free(m.end(), spans)]
    if places:
        return places[-1]
    for place in range(end, start, -1):
        if is_grapheme_break(text, place) and _free(place, spans):
            return place
    return end


def is_grapheme_break(text: str, at: int) -> bool:
    """Whether a cut before `text[at]` leaves every grapheme whole. After UAX 29, erring towards no."""
    before, after = text[at - 1], text[at : at + 1]
    if not after or (after < "\u0300" and before < "\u0300"):
        return (before, after) != ("\r", "\n")
    if unicodedata.category(after)[0] == "M" or after in "\u200c\u200d" or "\U0001f3fb" <= after <= "\U0001f3ff":
        return False
    if before == "\u200d" or unicodedata.combining(before) == 9:  # joiner; virama, which joins consonants
        return False
    if "\u1160" <= after <= "\u11ff" or "\U000e0020" <= after <= "\U000e007f":  # Hangul vowels and finals; flag tags
        return False
    if "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff":
        return False
    if "\U0001f1e6" <= after <= "\U0001f1ff":  # regional indicators pair up from the left
        count = 0
        while at - 1 - count >= 0 and "\U0001f1e6" <= text[at - 1 - count] <= "\U0001f1ff":
            count += 1
        return count % 2 == 0
    return True
