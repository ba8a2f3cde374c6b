from __future__ import annotations

import pytest

from llm2ws.text.cleaner import Cleaner
from llm2ws.text.rules import Rules
from tests.text.corpus import stream

# Raw text for each rule, and the other rules that see something in the same characters.
SWITCHED = {
    "code": ("So:\n```py\na **b** `c`\n```\nEnd", ()),
    "emoji": ("Great 😀! 👍🏽", ()),
    "emphasis": ("**a** _b_ ~~c~~", ()),
    "entities": ("a &amp; b", ()),
    "escapes": ("\\*a\\* \\", ()),
    "footnotes": ("a[^1]\n\n[^1]: b", ("links",)),
    "headings": ("# a #\n\nb\n===\n", ()),
    "html": ("<b>a</b><!-- c --><script>d</script>", ()),
    "images": ("![a](b)", ("links",)),
    "inline_code": ("`**a**`", ()),
    "links": ("[a](b) <c@d.e>", ("html", "urls")),
    "lists": ("- a\n1. b\n- [ ] c", ()),
    "math": ("$x^2$ and $$ and \\(a\\)", ("emoji", "escapes")),
    "quotes": ("> a\n> b", ()),
    "separators": ("a\n\n---\n\nb", ()),
    "tables": ("| a | b |\n|---|---|\n", ()),
    "think": ("<think>a</think>b", ()),
    "unseen": ("a\u200bb\u00adc\r\nd", ()),
    "urls": ("https://example.com/a and <https://b.c/d>", ("html", "links")),
}


@pytest.mark.parametrize("rule", Rules.__slots__)
def test_a_rule_that_is_off_leaves_its_markup_as_it_is(rule: str) -> None:
    raw, others = SWITCHED[rule]
    assert stream(Cleaner(Rules(**dict.fromkeys((rule, *others), False))), raw) == raw
    assert stream(Cleaner(), raw) != raw


def test_code_is_read_out_if_its_rule_is_off_and_markup_is_not_looked_for_in_it() -> None:
    raw = "**So:**\n```py\nx = a**b * `c`\n# no heading\n```\n**End**"
    assert stream(Cleaner(Rules(code=False)), raw) == "So:\n```py\nx = a**b * `c`\n# no heading\n```\nEnd"


def test_replacements_work_with_all_rules_off() -> None:
    assert stream(Cleaner(Rules.none(), replace={"SQL": "sequel"}), "**SQL** # x") == "**sequel** # x"
