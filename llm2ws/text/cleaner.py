"""Clean the text of a model while it arrives: markup in, text fit to be spoken out.

    feed -> the next place that is not plain text: words are passed over in one scan
         -> which construct it is (markup.py) and what becomes of it (constructs.py)
         -> what is said, with the spaces mended (spacing.py)

What is held back is bounded, and words are not held. Markup is unwrapped or dropped as soon as it is certain what it is.
Emphasis is decided by the characters beside the marker, never by another marker that may not come; so an opening ** without a
closing one is dropped too.

Known limits: stars within a word stay, as in re*mark*able; what stands before a lone </think> has been said when that comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

from ..errors import ConfigError
from .cleaning import BEHIND, NOTHING, Literal, More, State
from .construct import Construct
from .constructs import ACTS
from .enclosed import NEAR
from .fragments import Held, Hold, Piece
from .machinery import OPENING
from .markup import BLOCKS, EMOJI, IN_CODE, INDENT, INLINE, LITERALS, PRICE_ENDS, UNSEEN, UNSEEN_CHARS, URL
from .replace import half_pattern, whole_pattern
from .rules import Rules
from .signs import RUN_CHARS, SIGN_CHARS, SIGN_SPOTS, pictograph, sign

__all__ = ["REPLACE_CHARS", "Cleaner", "Rules"]

REPLACE_CHARS: Final = 200  # at most, of what is replaced: a pattern is as deep as it is long
_SPACE: Final = Held(Hold.SURE, "a space before the next word")


# Markup may begin with these, but in prose they are frequent, and few of what follows them is markup.
_RARE: Final = {":": r":(?:[/c]|\Z)", "(": r"\((?:\[|\Z)"}


class _Mode(NamedTuple):
    """What is markup in prose, or in a code span."""

    spots: re.Pattern[str]  # where a trigger may begin: one class of characters, so that words are a plain scan
    trigger: re.Pattern[str]  # what is not plain text
    constructs: Mapping[str, list[Construct]]  # by the character they begin with

    def search(self, text: str, at: int) -> re.Match[str] | None:
        """Return the next trigger, None if there is none."""
        return self.trigger_at(text, self.spots.search(text, at))

    def trigger_at(self, text: str, spot: re.Match[str] | None) -> re.Match[str] | None:
        """Return the trigger at the spot or behind it, None if there is none."""
        while spot is not None:
            if (found := self.trigger.match(text, spot.start())) is not None:
                return found
            spot = self.spots.search(text, spot.end())
        return None


class _Plan(NamedTuple):
    """What to look for, compiled."""

    blocks: Mapping[str, list[Construct]]
    opening: Mapping[str, list[Construct]]  # for the first line of the answer, besides
    prose: _Mode
    code: _Mode
    keys: re.Pattern[str]


class Cleaner:
    """Cleans the text of one turn after another.

    `code_phrase` is said once for each code block, "" for nothing. `replace` maps words, spelled as the model spells them, to
    what is said instead; the longest one wins, and what was said instead is not looked at again. Raises ConfigError when one
    is longer than REPLACE_CHARS.
    """

    def __init__(
        self,
        rules: Rules = Rules(),
        *,
        code_phrase: str = "The code is on your screen.",
        replace: Mapping[str, str] | None = None,
    ) -> None:
        self._rules = rules
        self._code_phrase = code_phrase
        self._replace = {key: said for key, said in (replace or {}).items() if key}
        if any(len(key) > REPLACE_CHARS for key in self._replace):
            raise ConfigError(f"text.replace: a word has more than {REPLACE_CHARS} characters", hint="give a shorter one")
        self._plan = _plan(rules, tuple(self._replace))
        self._trigger_at = self._plan.prose.trigger_at
        self._spot = self._plan.prose.spots.search
        self._reset()

    def _reset(self) -> None:
        self._state = State(self._rules, self._code_phrase)
        self._plain = False  # nothing is open: a token without markup may pass as it is

    def feed(self, text: str) -> list[Piece]:
        """Take more of the text; return what can be said for certain now."""
        state = self._state
        state.buf = buf = state.buf + text
        at = state.at
        if (
            self._plain
            and text
            and text[-1] != " "
            and ((spot := self._spot(buf, at)) is None or self._trigger_at(buf, spot) is None)
        ):
            start = state.base + at
            state.buf = buf[-BEHIND:]
            state.base = start + len(text) - BEHIND
            state.said.last = text[-1]
            state.said.newlines = 0
            return [Piece(text, start, start + len(text))]
        return self._run(More.LIKELY)

    def finish(self) -> list[Piece]:
        """Return the rest, at the end of the turn, where half a marker is text.

        Then the Cleaner is ready for another turn, with positions from 0.
        """
        pieces = self._run(More.NEVER)
        state = self._state
        if state.pictograph and not state.said.any:
            end = state.base + state.at
            pieces.append(Piece(state.pictograph, end, end))  # an answer that is nothing but a pictograph
        self._reset()
        return pieces

    @property
    def holding(self) -> Held:
        """Tell what is held back, and why."""
        return _SPACE if self._state.said.waits and self._state.held is NOTHING else self._state.held

    def release(self) -> list[Piece]:
        """Return what is most likely complete, as the model paused: never half of a link, tag, address or think block."""
        return self._run(More.LATER)

    def _run(self, more: More) -> list[Piece]:
        state = self._state
        state.more = more
        state.held = NOTHING
        at = state.at
        while at < len(state.buf) and (after := self._step(state, at)) >= 0:
            at = after
        if more is not More.LIKELY:
            state.said.settle()
        keep = max(0, at - BEHIND)
        state.buf = state.buf[keep:]
        state.base += keep
        state.at = at - keep
        self._plain = (
            state.at == len(state.buf) == BEHIND
            and not (state.line_start or state.ticks or state.said.dropped or state.said.waits)
            and state.literal is None
        )
        return state.said.take()

    def _step(self, state: State, at: int) -> int:
        """Take what begins at the place; return the place after it, or -1 if more must come first."""
        if state.literal is not None:
            return _literal(state, at, state.literal)
        if state.line_start:
            after = self._start_line(state, at)
            if after != at:
                return after
            state.line_start = False
        plan = self._plan
        mode = plan.code if state.ticks else plan.prose
        found = mode.search(state.buf, at)
        if found is None or found.start() > at:
            return state.say(at, found.start() if found else len(state.buf))
        match found.lastgroup:
            case "mark" if state.buf[at] == "\n":
                return _newline(state, at)
            case "mark":
                after = _try(state, mode.constructs.get(state.buf[at], ()), at)
            case "url":
                after = _try(state, (URL,), at)
            case "half_key" if state.more is More.LIKELY:
                return state.hold("may be a word to be replaced")
            case "key" | "half_key":
                key = plan.keys.match(state.buf, at)
                after = state.put(self._replace[key.group()], *key.span()) if key else at
            case "emoji":
                after = pictograph(state, at, found.end())
            case "sign":
                after = sign(state, at)
            case _:
                state.said.drop()
                after = found.end()
        return state.say(at, at + 1) if after == at else after

    def _start_line(self, state: State, at: int) -> int:
        """Take the mark of the line; return the place after it, the place itself if the line has none."""
        first = INDENT.match(state.buf, at).end()  # type: ignore[union-attr]
        if first == len(state.buf):
            return state.hold("the mark of a line may follow") if state.more is More.LIKELY and self._plan.blocks else at
        after = _try(state, self._plan.blocks.get(state.buf[first], ()), at)
        if after == at and state.base + first == 0:
            after = _try(state, self._plan.opening.get(state.buf[first], ()), at)
        if after == at:
            state.first = state.base + first
            if state.blank and first - at < state.item and state.buf[first] not in "\r\n":
                state.item = 0
        else:
            state.first = -1
        if after == at and state.table and state.buf[first] not in "\r\n":
            state.row = state.paragraph = True
        return after


def _try(state: State, constructs: Iterable[Construct], at: int) -> int:
    """Take the first construct that begins at the place; return the place after it, the place itself if there is none."""
    for construct in constructs:
        waits = state.more is More.LIKELY or (state.more is More.LATER and not construct.paused)
        if waits and len(state.buf) - at < construct.bound and construct.half.match(state.buf, at) is not None:
            sure = (
                state.is_open(state.buf[at])
                or (construct.paused and state.buf[at] in ":(")
                or PRICE_ENDS.match(state.buf, at) is not None
            )
            return state.hold(construct.why, Hold.SURE if sure else Hold.DOUBT)
        found = construct.whole.match(state.buf, at, at + construct.bound)
        if found is not None and (after := ACTS[construct.name](state, found)) != at:
            return after
    return at


def _literal(state: State, at: int, literal: Literal) -> int:
    found = literal.end.search(state.buf, at)
    half = literal.half.search(state.buf, at) if found is None and state.more is not More.NEVER else None
    end = found.start() if found else half.start() if half else len(state.buf)
    if end > at and literal.said:
        state.say(at, end)
    elif end > at:
        state.said.drop()
    elif half is not None:
        return state.hold("code may end") if literal.said else -1
    if found is None:
        return end
    if literal.otherwise is not None and state.base + end == literal.begin:
        state.literal = literal.otherwise
        return end
    if found.lastgroup == "nested" or state.nested:
        after = _within_thought(state, literal, found)
        if after:
            return after
    state.literal = None
    if literal.end_said:
        return state.say(end, found.end())
    if found.end() > end:
        state.said.drop()
    return found.end()


def _within_thought(state: State, literal: Literal, found: re.Match[str]) -> int:
    """Take the beginning or the end of a thought within a thought; return the place after it, 0 if all thoughts have ended."""
    if found.lastgroup == "nested":
        state.nested += state.base + found.start() > literal.begin + 3  # unlike a mark that is only written twice
        return found.end()
    again = literal.end.search(state.buf, found.end(), found.end() + NEAR)
    if again is None and state.more is not More.NEVER and len(state.buf) < found.end() + NEAR:
        return state.hold("the end of a thought within a thought")
    state.nested = state.nested - 1 if again else 0
    return found.end() if again else 0


def _newline(state: State, at: int) -> int:
    said = state.said
    state.blank = blank = state.buf[max(0, at - 2) : at].rstrip("\r")[-1:] in ("", "\n")
    if state.paragraph or blank:
        state.open = dict.fromkeys("*_~=", 0)
        state.opener = -1
    if blank:
        state.table = False
    if said.dropped and said.newlines >= 2:
        said.drop()
    else:
        state.put("\n\n" if state.paragraph else "\n", at, at + 1)
    state.paragraph = state.heading = state.row = state.quoted = False
    state.line_start = True
    state.ticks = 0
    return at + 1


@lru_cache(maxsize=64)
def _plan(rules: Rules, keys: tuple[str, ...]) -> _Plan:
    """Compile the rules; cached, as every turn has a Cleaner of its own and all of them the same rules."""
    blocks = _by_first(BLOCKS, rules)
    literal = replace(rules, emoji=False, separators=False, urls=False)
    return _Plan(
        blocks,
        _by_first(OPENING, rules),
        _mode(INLINE, rules, keys, lines=bool(blocks)),
        _mode(IN_CODE, literal, keys, lines=bool(blocks)),
        re.compile(whole_pattern(keys)),
    )


def _mode(constructs: Iterable[Construct], rules: Rules, keys: tuple[str, ...], *, lines: bool) -> _Mode:
    table = _by_first(constructs, rules)
    ways, chars = [], ""
    if keys:
        ways += [f"(?P<half_key>{half_pattern(keys)})", f"(?P<key>{whole_pattern(keys)})"]
        chars += "".join(re.escape(key[0]) for key in keys)
    if rules.urls:
        ways.append(r"(?P<url>(?<![a-zA-Z0-9_@])(?i:https?://|www\.|h(?:t(?:t(?:p(?:s?:?|s?:/)?)?)?)?\Z|ww?w?\Z))")
    if table or lines:
        marks = "".join(map(re.escape, set(table) - set(_RARE))) + "\n"
        rare = [way for char, way in _RARE.items() if char in table]
        ways.append(f"(?P<mark>{'|'.join([f'[{marks}]', *rare])})")
        chars += marks
    if rules.emoji:
        ways.append(f"(?P<sign>[{SIGN_CHARS}])")
        ways.append(f"(?P<emoji>[{EMOJI}]{{1,{RUN_CHARS}}})")
        chars += SIGN_SPOTS
    if rules.separators:
        ways.append(r"(?P<dots>(?<=\.\.\.)\.+)")
    if rules.unseen:
        ways.append(f"(?P<unseen>{UNSEEN})")
        chars += UNSEEN_CHARS
    more = [f"(?<={re.escape(char)})(?={way[len(re.escape(char)) :]})" for char, way in _RARE.items() if char in table]
    seldom = "".join(map(re.escape, _RARE)) if more else ""
    if rules.separators:
        more.append(r"(?<=\.\.\.\.)")
        seldom += "."
    if rules.urls:
        more.append(r"(?<![a-zA-Z0-9_@].)(?<=[hHwW])")
        seldom += "hHwW"
    sure = [f"(?<=[{chars}])"] if chars else []
    spots = f"[{chars}{seldom}](?:{'|'.join([*sure, *more])})" if sure or more else "(?!)"
    return _Mode(re.compile(spots), re.compile("|".join(ways) or "(?!)"), table)


def _by_first(constructs: Iterable[Construct], rules: Rules) -> dict[str, list[Construct]]:
    """Return the constructs that are switched on, by the character they begin with."""
    table: dict[str, list[Construct]] = {}
    for construct in constructs:
        on = any(getattr(rules, rule) for rule in construct.rule.split())
        if on or (construct.name in LITERALS and rules != Rules.none()):
            for char in construct.first:
                table.setdefault(char, []).append(construct)
    return table
