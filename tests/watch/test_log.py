"""Log lines: their form, who may write, and that nothing is loaded for none."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llm2ws.watch import log
from tests.support import child_environment


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("llm2ws")
    before = (root.level, own.level, list(root.handlers))
    yield
    root.setLevel(before[0])
    own.setLevel(before[1])
    root.handlers[:] = before[2]


def test_json_where_nobody_looks_with_the_turn_on_every_line() -> None:
    out = io.StringIO()
    log.configure("info", stream=out)
    with log.turn_id("ab12"):
        logging.getLogger("llm2ws.pool").info("opened %d", 3)
    logging.getLogger("llm2ws.pool").warning("after")

    first, second = map(json.loads, out.getvalue().splitlines())

    assert {"event": "opened 3", "turn": "ab12", "level": "info", "logger": "llm2ws.pool"}.items() <= first.items()
    assert "timestamp" in first
    assert "turn" not in second


FACTS = {"face": "chat", "outcome": "cut short", "first_token_s": 0.60849, "flushes": 0, "first_audio_s": None}


def test_the_facts_of_a_turn_are_fields_of_its_json_line() -> None:
    out = io.StringIO()
    log.configure("info", stream=out)
    with log.turn_id("ab12"):
        log.log_turn(logging.getLogger("llm2ws.turn"), FACTS)
    line = json.loads(out.getvalue())
    facts = {"face": "chat", "outcome": "cut short", "first_token_s": 0.608, "flushes": 0}
    assert {**facts, "event": "turn", "turn": "ab12", "level": "info", "logger": "llm2ws.turn"}.items() <= line.items()
    assert "first_audio_s" not in line


def test_the_facts_of_a_turn_are_text_on_a_terminal() -> None:
    out = Terminal()
    log.configure("info", stream=out)
    log.log_turn(logging.getLogger("llm2ws.turn"), FACTS)
    assert "turn face=chat outcome=cut_short first_token_s=0.608" in re.sub("\x1b\\[[0-9;]*m", "", out.getvalue())
    assert "flushes" not in out.getvalue()


def test_what_is_announced_is_a_json_line_at_any_level_and_left_to_the_caller_on_a_terminal() -> None:
    out = io.StringIO()
    log.configure("error", stream=out)
    assert log.announce("listening on http://127.0.0.1:1")
    assert json.loads(out.getvalue())["event"] == "listening on http://127.0.0.1:1"
    log.configure("error", stream=Terminal())
    assert not log.announce("listening on http://127.0.0.1:1")


async def test_tasks_keep_the_turn_in_which_they_were_started() -> None:
    out = io.StringIO()
    log.configure("info", stream=out)

    async def work() -> None:
        logging.getLogger("llm2ws").info("x")

    async with asyncio.TaskGroup() as group:
        for turn in ("one", "two"):
            with log.turn_id(turn):
                group.create_task(work())

    assert [json.loads(line)["turn"] for line in out.getvalue().splitlines()] == ["one", "two"]


def test_plain_lines_on_a_terminal() -> None:
    out = Terminal()
    log.configure("info", stream=out)
    logging.getLogger("llm2ws").info("opened")
    assert "opened" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_words_of_a_server_cannot_forge_a_line_or_move_the_terminal() -> None:
    out = Terminal()
    log.configure("info", stream=out)
    logging.getLogger("llm2ws").warning("%s", "the server said: \x1b[2J\x07\x9b1A\r\n2026 [info] all is well")
    assert "the server said:  [2J  1A  2026 [info] all is well" in out.getvalue()
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(form: str) -> None:
    out = Terminal()
    log.configure("info", form, stream=out)
    secret = "as-a-local-" + "variable"
    try:
        raise ValueError(len(secret))
    except ValueError:
        logging.getLogger("llm2ws").exception("it failed")
    assert "ValueError: 19" in out.getvalue()
    assert "as-a-local-variable" not in out.getvalue()


def test_other_libraries_warn_and_no_more_even_at_debug() -> None:
    out = io.StringIO()
    log.configure("debug", stream=out)
    logging.getLogger("websockets.client").debug("> Authorization: Token")
    logging.getLogger("asyncio").info("x")
    logging.getLogger("asyncio").warning("slow")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["slow"]


def test_a_logger_with_a_level_of_its_own_is_no_way_around() -> None:
    out = io.StringIO()
    log.configure("warning", stream=out)
    chatty = logging.getLogger("llm2ws.chatty")
    chatty.setLevel(logging.INFO)
    chatty.info("x")
    assert not out.getvalue()


def test_the_last_call_counts() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure("info", stream=first)
    log.configure("error", stream=second)
    logging.getLogger("llm2ws").error("x")
    assert not first.getvalue()
    assert len(second.getvalue().splitlines()) == 1


def test_structlog_is_loaded_by_the_first_line_only() -> None:
    code = (
        "import sys, logging; from llm2ws.watch import log; log.configure('info'); log.turn_id('x');"
        "print('structlog' in sys.modules); logging.getLogger('llm2ws').info('x'); print('structlog' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", code], env=child_environment(), check=True, capture_output=True, text=True
    )
    assert out.stdout.split() == ["False", "True"]
