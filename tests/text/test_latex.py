from __future__ import annotations

import pytest

from tests.text.corpus import LATEX, cases, check


@pytest.mark.parametrize(("raw", "expected"), cases(*LATEX))
def test_a_formula_is_said_in_words(raw: str, expected: str) -> None:
    check(raw, expected)
