"""The conversation: where items go, and what an LLM is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert

from llm2ws.server.problems import Problem
from llm2ws.server.realtime.events import ConversationItem
from llm2ws.server.realtime.history import History, Item, item_of, messages


def item(kind: str, n: int, text: str) -> Item:
    """A message, a call or an output, number `n`."""
    if kind in ("user", "assistant", "system"):
        part: Any = {"type": "message", "role": kind}
        made = item_of(ConversationItem(**part), f"{kind}_{n}")
        made.text = text
        return made
    return item_of(ConversationItem(type=kind, call_id=f"call_{n}", name="f", output=text), f"{kind}_{n}")


KINDS = st.sampled_from(["user", "assistant", "system", "function_call", "function_call_output"])


@given(st.lists(st.tuples(KINDS, st.integers(0, 3), st.text(max_size=3))))
def test_any_conversation_is_one_that_chat_completions_takes(given: list[tuple[str, int, str]]) -> None:
    items = [item(*one) for one in given]
    told: list[dict[str, Any]] = [dict(message) for message in messages(items, "")]

    # Each message with calls is followed by the outputs of exactly these calls; no output stands alone.
    due: list[object] = []
    for message in told:
        if message["role"] == "tool":
            assert due, told
            assert message["tool_call_id"] == due.pop(0)
        else:
            assert not due, told
        due += [call["id"] for call in message.get("tool_calls", ())]
    assert not due
    # Every text is there, in its order.
    said = [message["content"] for message in told if message["role"] != "tool" and message["content"]]
    assert said == [one.text for one in items if "role" in one.shown and one.text]
    answered = {one.shown["call_id"] for one in items if one.kind == "function_call_output"}
    called = [one.shown["call_id"] for one in items if one.kind == "function_call" and one.shown["call_id"] in answered]
    assert [call["id"] for message in told for call in message.get("tool_calls", ())] == called


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=12))
def test_items_are_where_they_were_put(moves: list[tuple[bool, int]]) -> None:
    history = History("conv_1", 1_000)
    order: list[str] = []
    for n, (delete, at) in enumerate(moves):
        if delete and order:
            gone = order.pop(at % len(order))
            del history[gone]
            continue
        new = item("user", n, "x")
        after = "root" if not order or at == 0 else order[at % len(order)]
        previous = history.add(new, after)
        where = 0 if after == "root" else order.index(after) + 1
        assert previous == (order[where - 1] if where else None)
        order.insert(where, new.id)
    assert [one.id for one in history] == order


def test_a_conversation_has_an_end() -> None:
    history = History("conv_1", 2 * item("user", 0, "12345").chars)
    history.add(item("user", 0, "12345"))
    history.add(item("user", 1, "12345"))
    with pytest.raises(Problem, match="delete items first"):
        history.add(item("user", 2, "1"))
    del history["user_0"]
    history.add(item("user", 2, "1"))


@pytest.mark.parametrize("field", ["call_id", "name", "arguments", "text", "none"])
def test_all_that_is_kept_counts(field: str) -> None:
    history = History("conv_1", 20_000)

    def fill() -> None:
        for n in range(1_000):
            fields = {"call_id": f"{n}", "name": "f"} | ({} if field in ("text", "none") else {field: f"{n}" + "x" * 1_000})
            part = [{"type": "input_text", "text": "x" * 1_000}] if field == "text" else []
            message = {"type": "message", "role": "user", "content": part}
            given = message if field in ("text", "none") else {"type": "function_call", **fields}
            history.add(item_of(convert(given, ConversationItem), f"{n}"))

    with pytest.raises(Problem, match="delete items first"):
        fill()
    assert len(list(history)) <= (20 if field != "none" else 1_000)


def test_a_call_joins_the_words_before_it() -> None:
    items = [
        item("user", 0, "Rain?"),
        item("assistant", 0, "Let me look."),
        item("function_call", 0, ""),
        item("user", 1, "Well?"),
        item("function_call_output", 0, "no"),
    ]
    assert [message["role"] for message in messages(items, "Be brief.")] == ["system", "user", "assistant", "tool", "user"]
