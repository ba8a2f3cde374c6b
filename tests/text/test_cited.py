"""Marks of sources, which are not said unless they are a word of the sentence."""

from __future__ import annotations

import pytest

from tests.text.corpus import CITED, cases, check


@pytest.mark.parametrize(("raw", "expected"), cases(*CITED))
def test_marks_of_sources_are_not_said(raw: str, expected: str) -> None:
    check(raw, expected)
