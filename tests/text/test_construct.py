"""The tables of constructs keep what the Cleaner relies on."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from llm2ws.text.construct import Construct
from llm2ws.text.constructs import ACTS
from llm2ws.text.machinery import OPENING
from llm2ws.text.markup import BLOCKS, IN_CODE, INLINE, URL
from llm2ws.text.rules import Rules

DATA = Path(__file__).parent.parent / "data" / "cleaner"
TABLES = [*INLINE, *BLOCKS, *OPENING, *IN_CODE, URL]
ANSWERS = [case["raw"] for case in tomllib.loads((DATA / "answers.toml").read_text("utf-8"))["answer"]]
CASES = [raw for table in tomllib.loads((DATA / "constructs.toml").read_text("utf-8")).values() for raw, _ in table["cases"]]


def test_every_construct_has_an_act_and_every_act_a_construct() -> None:
    assert {construct.name for construct in TABLES} == set(ACTS)


def test_every_construct_is_switched_by_a_rule_and_every_rule_switches_something() -> None:
    switched = {rule for construct in TABLES for rule in construct.rule.split()}
    assert switched <= set(Rules.__slots__)
    assert set(Rules.__slots__) - switched == {"emoji"}  # characters, not constructs


@pytest.mark.parametrize("construct", TABLES, ids=lambda construct: f"{construct.name} {construct.first} {construct.rule}")
def test_a_construct_is_waited_for_until_it_is_whole(construct: Construct) -> None:
    """Each beginning of what the corpus has of it counts as half of it; and the corpus has some."""
    found = 0
    for raw in ANSWERS + CASES:
        for at in range(len(raw)):
            whole = construct.whole.match(raw, at)
            if whole is not None and whole.end() > at:
                found += 1
                first = next(
                    place for place in range(at, len(raw)) if construct.first.count(raw[place])
                )  # behind the indentation
                for end in range(first + 1, whole.end()):
                    assert construct.half.match(raw[:end], at) is not None, raw[at:end]
    assert found
