from __future__ import annotations

import pytest

from tests.text.corpus import LEFTOVERS, cases, check


@pytest.mark.parametrize(("raw", "expected"), cases(*LEFTOVERS))
def test_what_other_programs_left_is_not_said(raw: str, expected: str) -> None:
    check(raw, expected)
