from __future__ import annotations

import pytest

from tests.text.corpus import OTHERS, cases, check


@pytest.mark.parametrize(("raw", "expected"), cases(*OTHERS))
def test_what_is_said_of_a_construct(raw: str, expected: str) -> None:
    check(raw, expected)
