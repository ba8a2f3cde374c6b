from __future__ import annotations

import pytest

from tests.text.corpus import TAGS, cases, check


@pytest.mark.parametrize(("raw", "expected"), cases(*TAGS))
def test_what_becomes_of_a_tag(raw: str, expected: str) -> None:
    check(raw, expected)
