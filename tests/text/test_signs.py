from __future__ import annotations

import pytest

from tests.text.corpus import SIGNS, cases, check


@pytest.mark.parametrize(("raw", "expected"), cases(*SIGNS))
def test_a_sign_is_said_in_words(raw: str, expected: str) -> None:
    check(raw, expected)
