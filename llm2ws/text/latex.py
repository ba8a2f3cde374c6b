"""LaTeX in words: what the commands of a formula are called when one reads it out."""

from __future__ import annotations

from typing import Final

__all__ = ["JOINERS", "LIMITS", "SILENT", "WORDS"]

# What is said for a command. One that is in none of these tables is said by its name: \alpha, \sin.
WORDS: Final = {
    "approx": "is approximately",
    "ast": "times",
    "bar": "bar",
    "because": "because",
    "cap": "intersected with",
    "cdot": "times",
    "cdots": "and so on",
    "circ": "degrees",
    "cong": "is congruent to",
    "cup": "united with",
    "div": "divided by",
    "dots": "and so on",
    "ell": "l",
    "emptyset": "the empty set",
    "equiv": "is equivalent to",
    "exists": "there exists",
    "forall": "for all",
    "ge": "is at least",
    "geq": "is at least",
    "gg": "is much greater than",
    "gt": "is greater than",
    "hbar": "h bar",
    "iff": "if and only if",
    "implies": "implies",
    "infty": "infinity",
    "int": "the integral",
    "land": "and",
    "ldots": "and so on",
    "le": "is at most",
    "leq": "is at most",
    "lim": "the limit",
    "ll": "is much less than",
    "lor": "or",
    "lt": "is less than",
    "mid": "given",
    "mp": "minus or plus",
    "ne": "is not equal to",
    "neg": "not",
    "neq": "is not equal to",
    "notin": "not in",
    "parallel": "is parallel to",
    "perp": "is perpendicular to",
    "pm": "plus or minus",
    "prod": "the product",
    "propto": "is proportional to",
    "Rightarrow": "implies",
    "rightarrow": "to",
    "setminus": "without",
    "sim": "is similar to",
    "sqrt": "the square root of",
    "subset": "is a subset of",
    "subseteq": "is a subset of",
    "sum": "the sum",
    "therefore": "therefore",
    "vec": "vector",
}

# Commands of layout and type: nothing is said for them.
SILENT: Final = frozenset(
    "big Big bigg Bigg boldsymbol boxed displaystyle hline langle left limits mathbb mathbf mathcal mathit mathrm mathsf "
    "nonumber operatorname overline phantom qquad quad rangle right text textbf textit textrm textstyle underbrace "
    "underline".split()
)

# What is said between the two pairs of braces behind these.
JOINERS: Final = {"binom": "choose", "dfrac": "over", "frac": "over", "tfrac": "over"}

# Behind these, what is low is where it begins, and what is high where it ends.
LIMITS: Final = frozenset({"int", "lim", "prod", "sum"})
