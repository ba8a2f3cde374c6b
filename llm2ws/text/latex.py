"""LaTeX in words: how one reads a formula out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["SIGNS", "SYMBOLS", "spoken"]

# What is said for a command. One that is in none of these tables is said by its name: \alpha, \sin.
WORDS: Final = {
    "approx": "is approximately",
    "ast": "times",
    "because": "because",
    "bmod": "mod",
    "cap": "intersected with",
    "cdot": "times",
    "cdots": "and so on",
    "circ": "degrees",
    "cong": "is congruent to",
    "cup": "united with",
    "degree": "degrees",
    "div": "divided by",
    "dots": "and so on",
    "downarrow": "down",
    "ell": "l",
    "emptyset": "the empty set",
    "equiv": "is equivalent to",
    "exists": "there exists",
    "forall": "for all",
    "ge": "is at least",
    "geq": "is at least",
    "gets": "from",
    "gg": "is much greater than",
    "gt": "is greater than",
    "hbar": "h bar",
    "iff": "if and only if",
    "implies": "implies",
    "infty": "infinity",
    "int": "the integral",
    "land": "and",
    "lceil": "the ceiling of",
    "ldots": "and so on",
    "le": "is at most",
    "Leftarrow": "is implied by",
    "leftarrow": "from",
    "Leftrightarrow": "if and only if",
    "leftrightarrow": "to and from",
    "leq": "is at most",
    "lfloor": "the floor of",
    "lim": "the limit",
    "ll": "is much less than",
    "Longleftrightarrow": "if and only if",
    "Longrightarrow": "implies",
    "longrightarrow": "to",
    "lor": "or",
    "lt": "is less than",
    "mapsto": "maps to",
    "mid": "given",
    "mp": "minus or plus",
    "ne": "is not equal to",
    "neg": "not",
    "neq": "is not equal to",
    "ni": "contains",
    "not": "not",
    "notin": "not in",
    "parallel": "is parallel to",
    "perp": "is perpendicular to",
    "pm": "plus or minus",
    "prime": "prime",
    "prod": "the product",
    "propto": "is proportional to",
    "Rightarrow": "implies",
    "rightarrow": "to",
    "setminus": "without",
    "sim": "is similar to",
    "simeq": "is approximately",
    "subset": "is a subset of",
    "subseteq": "is a subset of",
    "sum": "the sum",
    "supset": "contains",
    "supseteq": "contains",
    "therefore": "therefore",
    "to": "to",
    "uparrow": "up",
    "varnothing": "the empty set",
    "vdots": "and so on",
    "vec": "vector",
    "xrightarrow": "to",
}

# Commands of layout and type: nothing is said for them.
SILENT: Final = frozenset(
    "big Big bigg Bigg bigl bigr Bigl Bigr boldsymbol boxed bm cancel displaystyle fbox hline langle left limits mathbb mathbf "
    "mathcal mathfrak mathit mathrm mathsf mathscr mathtt mbox middle nolimits nonumber notag operatorname qquad quad rangle "
    "rceil rfloor right text textbf textit textrm textsf textstyle texttt underbrace overbrace underline".split()
)
# Nothing is said for these, nor for so many arguments behind them.
_DROPPED: Final = {
    "begin": 1,
    "color": 1,
    "end": 1,
    "hspace": 1,
    "label": 1,
    "phantom": 1,
    "tag": 1,
    "vspace": 1,
    "hphantom": 1,
}
_SECOND: Final = frozenset({"colorbox", "overset", "stackrel", "textcolor", "underset"})  # of two arguments the second is said
_BETWEEN: Final = {"binom": "choose", "cfrac": "over", "dbinom": "choose", "dfrac": "over", "frac": "over", "tfrac": "over"}
_ACCENTS: Final = {
    "acute": "acute",
    "bar": "bar",
    "breve": "breve",
    "check": "check",
    "ddot": "double dot",
    "dot": "dot",
    "grave": "grave",
    "hat": "hat",
    "overline": "bar",
    "tilde": "tilde",
    "widehat": "hat",
    "widetilde": "tilde",
}
_LIMITS: Final = frozenset({"int", "iint", "oint", "lim", "liminf", "limsup", "max", "min", "inf", "sup", "prod", "sum"})
_POWERS: Final = {"2": "squared", "3": "cubed", "degrees": "degrees", "prime": "prime", "*": "star", "th": "th", "st": "st"}
_ROOTS: Final = {"": "square", "2": "square", "3": "cube"}

# Signs that stand for words, in formulas and in prose, and the commands that mean the same.
_SIGN_COMMANDS: Final = {
    "→": "to",
    "⟶": "to",
    "➔": "to",
    "➜": "to",
    "➝": "to",
    "➞": "to",
    "⇒": "implies",
    "⟹": "implies",
    "←": "leftarrow",
    "⟵": "leftarrow",
    "⇐": "Leftarrow",
    "↔": "leftrightarrow",
    "⇔": "iff",
    "⟺": "iff",
    "↦": "mapsto",
    "↑": "uparrow",
    "↓": "downarrow",
    "≤": "leq",
    "⩽": "leq",
    "≥": "geq",
    "⩾": "geq",
    "≠": "neq",
    "≈": "approx",
    "≃": "simeq",
    "≅": "cong",
    "≡": "equiv",
    "≪": "ll",
    "≫": "gg",
    "∝": "propto",
    "∞": "infty",
    "∈": "in",
    "∉": "notin",
    "∋": "ni",
    "⊂": "subset",
    "⊆": "subseteq",
    "⊃": "supset",
    "⊇": "supseteq",
    "∪": "cup",
    "∩": "cap",
    "∅": "emptyset",
    "∀": "forall",
    "∃": "exists",
    "∧": "land",
    "∨": "lor",
    "¬": "neg",
    "∑": "sum",
    "∏": "prod",
    "∫": "int",
    "√": "sqrt",
    "∴": "therefore",
    "∵": "because",
    "∥": "parallel",
    "⊥": "perp",
    "∠": "angle",
    "∂": "partial",
    "∇": "nabla",
    "∖": "setminus",
    "∘": "circ",
    "⋅": "cdot",
}
SIGNS: Final = {sign: WORDS.get(name, name) for sign, name in _SIGN_COMMANDS.items()} | {
    "√": "the square root of",
    "∘": "after",
    "×": "times",
    "÷": "divided by",
    "±": "plus or minus",
    "∓": "minus or plus",
    "∼": "is similar to",
    "−": "minus ",
}
# Commands without arguments that are known outside formulas, too.
SYMBOLS: Final = frozenset(WORDS) - _LIMITS - {"not", "vec", "prime", "mid"} | frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi varphi "
    "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega times partial nabla angle triangle".split()
)

_TOKEN: Final = re.compile(r"\\[a-zA-Z]+\*?|\\.|\d+(?:[.,]\d+)*|.", re.DOTALL)
_GAP: Final = "\x01"
_GAPS: Final = re.compile(rf"{_GAP}(?=[\w(\[{{\\])")
_DEPTH: Final = 30  # of groups within groups
_KEPT: Final = "{}%$#&_"


def _word(words: str) -> str:
    """Return words with a space before them, and one behind them if a letter, a digit or a bracket follows."""
    return f" {words}{_GAP}"


def _folded(words: str) -> str:
    return " ".join(_GAPS.sub(" ", words).replace(_GAP, "").split())


class _Reader:
    """Reads the tokens of one formula."""

    def __init__(self, source: str) -> None:
        self._tokens: list[str] = _TOKEN.findall(source)
        self._at = 0
        self._depth = 0
        self._cells = " "  # what is said between the columns

    def read(self, end: str = "") -> str:
        """Return in words what stands before the part `end`, "" for all of it."""
        words = []
        while self._at < len(self._tokens):
            part = self._next()
            if part == end:
                break
            words.append(self._say(part))
        return "".join(words)

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _argument(self, *, digits: int = 1) -> str:
        """Return in words the group, the command or the single character that follows; of a number only so many digits."""
        while self._peek().isspace():
            self._at += 1
        part = self._peek()
        if not part or part in "}&" or part == "\\\\":
            return ""
        self._at += 1
        if part[0].isdigit() and len(part) > digits:
            self._at -= 1
            self._tokens[self._at] = part[digits:]
            return part[:digits]
        return _folded(self._say(part))

    def _optional(self) -> str:
        """Return in words what stands in square brackets, if they follow."""
        if self._peek() != "[" or "]" not in self._tokens[self._at :]:
            return ""
        self._at += 1
        return _folded(self.read("]"))

    def _say(self, part: str) -> str:
        if part == "{" and self._depth < _DEPTH:
            self._depth += 1
            words = self.read("}")
            self._depth -= 1
            return words
        if part in "_^":
            return _word(self._argument()) if part == "_" else _power(self._argument())
        if len(part) > 1 and part[0] == "\\":
            return self._command(part[1:].rstrip("*")) if part[1].isalpha() else self._escaped(part[1])
        return {"{": "", "}": "", "&": self._cells, "~": " ", "$": "", "'": _word("prime"), **_SPACED_SIGNS}.get(part, part)

    def _escaped(self, char: str) -> str:
        if char == "\\":
            self._optional()
            return ", " if self._cells == " " else "; "
        return char if char in _KEPT else " "

    def _command(self, name: str) -> str:
        if name in _BETWEEN:
            return _word(f"{self._argument()} {_BETWEEN[name]} {self._argument()}")
        if name in _ACCENTS:
            return _word(f"{self._argument()} {_ACCENTS[name]}")
        if name in _LIMITS:
            return self._limits(name)
        if name in _SECOND:
            self._argument()
            return _word(self._argument())
        special = _SPECIAL.get(name)
        if special is not None:
            return special(self)
        for _ in range(_DROPPED.get(name, 0)):
            if "matrix" in self._argument():
                self._cells = ", " if name == "begin" else " "
        return " " if name in SILENT or name in _DROPPED else _word(WORDS.get(name, name))

    def _limits(self, name: str) -> str:
        """Say a sum, an integral or a limit, with what is below and above it."""
        low = high = ""
        while self._peek() in ("_", "^", "\\limits") and self._peek():
            mark = self._next()
            if mark == "_":
                low = self._argument()
            elif mark == "^":
                high = self._argument(digits=1)
        word = WORDS.get(name, name)
        if name.startswith("lim"):
            low = low.replace(" to ", " goes to ")
            return _word(f"{word} as {low} of") if low else _word(f"{word} of")
        said = f" {word}" + (f" {'from' if high else 'over'} {low}" if low else "") + (f" to {high}" if high else "")
        return _word(said.strip())

    def root(self) -> str:
        degree = self._optional()
        name = _ROOTS.get(degree) or (f"{degree}th" if degree.isdigit() else f"{degree}-th")
        return _word(f"the {name} root of {self._argument()}")

    def modulus(self) -> str:
        return _word(f"mod {self._argument()}")

    def chemistry(self) -> str:
        """Say a reaction: "2H2 + O2 -> 2H2O"."""
        said = self._argument()
        return _word(re.sub(" ?<=> ?", " in balance with ", re.sub(" ?-+> ?", " gives ", said)))

    def environment(self) -> str:
        name = self._argument()
        self._cells = ", " if "matrix" in name else " "
        if "array" in name:
            self._argument()
        return " "


_SPACED_SIGNS: Final = {sign: _word(word) for sign, word in SIGNS.items()} | {"−": "-"}
_SPECIAL: Final[dict[str, Callable[[_Reader], str]]] = {
    "sqrt": _Reader.root,
    "pmod": _Reader.modulus,
    "ce": _Reader.chemistry,
    "begin": _Reader.environment,
}


def _power(of: str) -> str:
    of = of.strip()
    return _word(_POWERS[of]) if of in _POWERS else _word(f"to the power of {of}")


_BARS: Final = re.compile(r"\|([^|]{1,60})\|")
_LOOSE: Final = re.compile(r"(?<=[(\[{]) | (?=[)\]},;.!?])|(?:^|(?<=[(\[{]))[ ,;]+|[ ,;]+$")


def spoken(source: str) -> str:
    """Return a formula in words."""
    said = _BARS.sub(rf" the absolute value of \1{_GAP}", _Reader(source).read())
    said = re.sub(r"(?:[,;] ?)+(?=[,;])", "", _folded(said.replace("|", _word("given"))))
    return _LOOSE.sub("", said)
