"""Text that is there already, and the echo of a prompt."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import SourceError
from llm2ws.sources.text import echo, from_iterable, from_stream, from_text
from tests.sources.clock import run_jumping


async def taken(source: AsyncIterator[str]) -> list[str]:
    return [item async for item in source]


@given(st.text())
def test_echo_loses_nothing(text: str) -> None:
    tokens, _ = run_jumping(taken(echo(text, tokens_per_s=0)))

    assert "".join(tokens) == text
    assert "" not in tokens


async def test_echo_makes_tokens_as_they_are_wanted() -> None:
    text = "ab " * 1_000_000
    tracemalloc.start()
    async with aclosing(echo(text, tokens_per_s=0)) as answer:
        assert await anext(answer) == "ab"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_echo_writes_at_the_speed_of_a_model() -> None:
    tokens, seconds = run_jumping(taken(echo("word " * 80, tokens_per_s=40)))

    assert len(tokens) == 81  # the last is a space
    assert seconds == pytest.approx(81 / 40)


def test_echo_waits_from_token_to_token_and_not_at_the_end_of_each() -> None:
    """A reader that takes its time gets what is due since, at once."""

    async def slow() -> list[str]:
        tokens = []
        async for token in echo("word " * 80, tokens_per_s=40):
            tokens.append(token)
            if len(tokens) == 1:
                await asyncio.sleep(1.0)
        return tokens

    _, seconds = run_jumping(slow())

    assert seconds == pytest.approx(81 / 40)


async def test_a_text_and_an_iterable() -> None:
    def words() -> Iterator[str]:
        yield from ("One ", "two.")

    assert await taken(from_text("One two.")) == ["One two."]
    assert await taken(from_iterable(["One ", "two."])) == ["One ", "two."]
    assert await taken(from_iterable(words())) == ["One ", "two."]


async def test_an_iterable_that_waits_does_not_stop_the_loop() -> None:
    loop = asyncio.get_running_loop()

    def waits_for_the_loop() -> Iterator[str]:
        yield asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "said"), loop).result()

    assert await taken(from_iterable(waits_for_the_loop())) == ["said"]


async def test_a_generator_that_is_left_is_closed() -> None:
    closed = threading.Event()

    def words() -> Iterator[str]:
        try:
            yield from ("One ", "two.")
        finally:
            closed.set()

    generator = words()  # held here, so that it is not closed as garbage
    source = from_iterable(generator)
    assert await anext(source) == "One "
    await source.aclose()
    assert await asyncio.to_thread(closed.wait, 20)


async def test_a_generator_that_is_left_while_it_is_at_work_is_closed_after_that() -> None:
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    yielded = []

    def words() -> Iterator[str]:
        begun.set()
        assert go_on.wait(20)
        try:
            for word in ("One ", "two."):
                yielded.append(word)
                yield word
        finally:
            closed.set()

    generator = words()
    reader = asyncio.create_task(anext(from_iterable(generator)))
    assert await asyncio.to_thread(begun.wait, 20)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader  # it does not wait for the step
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 20)
    assert yielded == ["One "]


async def test_an_iterable_that_fails_is_not_the_end_of_a_text() -> None:
    def fails() -> Iterator[str]:
        yield "One"
        raise KeyError("two")

    source = from_iterable(fails())

    assert await anext(source) == "One"
    with pytest.raises(KeyError):
        await anext(source)


class Reads:
    """Gives what it was told, one piece a read."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read(self, n: int, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x1b\b")), st.booleans())
def test_characters_may_be_split_over_reads(text: str, mark: bool) -> None:
    text = text.removeprefix("\ufeff")
    data = text.encode("utf-8-sig" if mark else "utf-8")

    items, _ = run_jumping(taken(from_stream(Reads(*(data[i : i + 1] for i in range(len(data)))))))

    assert "".join(items) == text
    assert "" not in items


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"It uses qu", b"\x1b[2D\x1b[", b"K\nqubits."], "It uses \nqubits."),  # as ollama wraps lines
        ([b"a\xffb"], "a\ufffdb"),
        ([b"a\xe2\x82", b"b"], "a\ufffdb"),
        ([b"a\xe2\x82"], "a\ufffd"),
        ([], ""),
    ],
)
async def test_bytes_that_are_no_text_do_not_end_it(pieces: list[bytes], text: str) -> None:
    assert "".join(await taken(from_stream(Reads(*pieces)))) == text


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("a bug")])
async def test_half_a_word_before_a_failure_is_given(error: Exception) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"half a wor")
    source = from_stream(reader)

    assert await anext(source) == "half a "
    reader.set_exception(error)
    assert await anext(source) == "wor"
    with pytest.raises((SourceError, RuntimeError)):
        await anext(source)


async def test_a_stream_that_fails_says_where() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"half a ")
    source = from_stream(reader, name="answer.txt")

    assert await anext(source) == "half a "
    reader.set_exception(OSError(5, "Input/output error"))
    with pytest.raises(SourceError, match=r"^answer\.txt: Input/output error: look at where the text comes from$"):
        await anext(source)
