"""Every dialect x every case, through the real pool and turn, against a server written from the vendor's documents.

The table at the end of the output has a row for each dialect. A vendor is a row of `tests/vendors/rows.py` and no code here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NamedTuple

import pytest

from llm2ws.errors import ConnectFailed, SpeechError
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.testing import Coding, Drop, Faults, How, decode, script, tokens
from llm2ws.testing.endpoint import FaultyEndpoint
from llm2ws.turn import Audio, Conversation, Outcome
from scripts.bench_seam import compare
from scripts.virtual_clock import run
from tests.vendors.rows import DESCRIBED, ROWS, Row
from tests.whole import FORMAT, audio_of, heard, listen, sentences

CODING = Coding(char_samples=480, lead_in_s=0.1)  # 60 ms a character
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."
NOISE = ('{"type": "Later", "x": 1}', "no JSON", "[]", '{"type": ["x"], "context_id": {}, "audio": 7, "data": "*"}')


class Stage(NamedTuple):
    """An endpoint, and what speaks over it."""

    server: FaultyEndpoint[Any]
    pool: Pool
    endpoint: Endpoint

    def conversation(self) -> Conversation:
        return Conversation(self.pool, [self.endpoint])

    async def heard(self, *steps: str | float) -> str:
        return await heard(self.conversation().turn(script(*steps)))


@asynccontextmanager
async def stage(row: Row, key: str, *, pace: float | None = None, wrong: str = "", **options: Any) -> AsyncIterator[Stage]:
    async with row.server(coding=CODING, key=key, pace=pace, **options) as server, Pool() as pool:
        dialect = row.speaks(Setup(server.url, "", FORMAT, wrong or key))
        yield Stage(server, pool, Endpoint(dialect, row.dialect, silence_s=20.0))


def went_well(server: FaultyEndpoint[Any]) -> bool:
    """The endpoint had no reason to close a connection."""
    return not [how for how in server.closed_with if how.code != 1000]


Case = Callable[[Row, str], Awaitable[None]]


async def speak(row: Row, key: str) -> None:
    """A turn is heard, whole and once, whatever the sizes of its tokens and of the frames of audio."""
    for max_frame_bytes in (101, 3_840, 60_000):
        async with stage(row, key, max_frame_bytes=max_frame_bytes) as on:
            assert await on.heard(*tokens(STORY)) == STORY
            assert "".join(on.server.texts()).split() == STORY.split()
            assert await on.heard("Ünïcödé: “naïve” — 東京, 🎈 x. ") == "Ünïcödé: “naïve” — 東京, x."
            assert (on.server.connections, went_well(on.server)) == (1, True)


async def flush(row: Row, key: str) -> None:
    """The first sentence is heard while the model is still writing."""
    async with stage(row, key, pace=1.0) as on:
        audible = asyncio.Event()

        async def source() -> AsyncIterator[str]:
            for token in tokens("The first sentence is here. And this one "):
                yield token
            async with asyncio.timeout(10.0):
                await audible.wait()
            yield "ends."

        turn = on.conversation().turn(source())
        audio = bytearray()
        async with turn:
            async for data in turn.audio():
                audio += data
                audible.set()
        assert (decode(bytes(audio)), turn.outcome) == ("The first sentence is here. And this one ends.", Outcome.DONE)


async def end(row: Row, key: str) -> None:
    """A turn is over when its audio is, and the next one is spoken over the same connection."""
    async with stage(row, key, pace=1.0) as on:
        conversation, now = on.conversation(), asyncio.get_running_loop().time
        for n in range(7):  # more than the contexts that an endpoint may allow at once
            since, turn = now(), conversation.turn(script(f"This is turn {n}."))
            assert await heard(turn) == f"This is turn {n}."
            assert now() - since < turn.stats.audio_s + 1.0
        assert (on.server.connections, went_well(on.server)) == (1, True)


async def nothing(row: Row, key: str) -> None:
    """A turn without a word says nothing to the endpoint, and is done."""
    async with stage(row, key) as on:
        turn = on.conversation().turn(script("... ", "- "))
        assert (await heard(turn), turn.outcome, on.server.log) == ("", Outcome.DONE, [])
        assert await on.heard("Then this. ") == "Then this."


async def interrupt(row: Row, key: str) -> None:
    """Left at any time, a turn stops at once, the endpoint knows, and the next one begins clean."""
    for leave_after_s in (0.0, 0.2, 1.0, 5.0):
        async with stage(row, key, pace=2.0) as on:
            conversation = on.conversation()
            async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
                await asyncio.sleep(leave_after_s)
            assert turn.outcome is Outcome.INTERRUPTED
            assert await heard(conversation.turn(script(*tokens(STORY)))) == STORY
            assert went_well(on.server)


async def stale(row: Row, key: str) -> None:
    """Audio that goes on after an interruption reaches nobody."""
    for faults in (Faults(audio_after_clear_s=0.5), Faults(cleared_s=0.3, stale_flushed=True), Faults(cleared_s=math.inf)):
        async with stage(row, key, pace=2.0, max_frame_bytes=800) as on:
            on.server.faults = faults
            conversation = on.conversation()
            async with conversation.turn(script(*tokens(STORY))) as turn:
                async for event in turn.events():
                    if isinstance(event, Audio) and event.at_s > 1.0:
                        break
            assert await heard(conversation.turn(script("The next turn. "))) == "The next turn."


async def cut(row: Row, key: str) -> None:
    """The connection is lost before any of the endpoint's messages: every word is heard, none out of order, few twice."""
    lengths = []
    for how in (How.RESET, How.CLOSE):
        for at_message in count():
            async with stage(row, key, pace=4.0, max_frame_bytes=12_000) as on:
                on.server.drops.append(Drop(how, at_message=at_message))
                turn = on.conversation().turn(script(*tokens(STORY)))
                said = decode(audio_of(await listen(turn)))
                if on.server.drops:
                    lengths.append(at_message)
                    break
                lost, twice = compare(said, STORY)
                assert (lost, turn.outcome) == (0, Outcome.DONE), (how, at_message, said)
                assert twice <= 2, (how, at_message, said)
    assert min(lengths) > 10


async def limits(row: Row, key: str) -> None:
    """A long text waits for the endpoint's limits: it runs into none of them, and nothing is lost."""
    text = sentences(6_000)
    async with stage(row, key) as on:
        assert await on.heard(*tokens(text)) == text
        assert went_well(on.server)


async def crowd(row: Row, key: str) -> None:
    """Many turns at once do not mix, and run into no limit of a connection."""
    async with stage(row, key, pace=4.0) as on:
        texts = [f"This is number {n} of many. It says its {n} words." for n in range(13)]
        said = await asyncio.gather(*(on.heard(*tokens(text)) for text in texts))
        assert (said, went_well(on.server)) == (texts, True)


async def neighbours(row: Row, key: str) -> None:
    """An interrupted turn does not disturb those beside it."""
    async with stage(row, key, pace=2.0) as on:
        others = [asyncio.create_task(on.heard(*tokens(STORY))) for _ in range(3)]
        for _ in range(3):
            async with on.conversation().turn(script(*tokens(STORY))) as turn:
                async for _ in turn.audio():
                    break
        assert await asyncio.gather(*others) == [STORY] * 3
        assert went_well(on.server)


async def wrong_key(row: Row, key: str) -> None:
    """A wrong key is an error that names neither key, and is not tried again."""
    async with stage(row, key, wrong=f"{key}x") as on:
        with pytest.raises(SpeechError) as caught:
            await on.heard("Hello. ")
        assert (on.server.handshakes, on.server.log) == (1, [])
        assert isinstance(caught.value, ConnectFailed)
        assert "key" in caught.value.hint


async def refused(row: Row, key: str) -> None:
    """A handshake that is refused for the moment is tried again."""
    for status in (429, 503):
        async with stage(row, key) as on:
            on.server.refusals.append(status)
            assert await on.heard("Hello. ") == "Hello."
            assert on.server.handshakes == 2


async def unknown(row: Row, key: str) -> None:
    """Messages that nobody knows are passed over."""
    async with stage(row, key) as on:
        on.server.faults = Faults(noise=NOISE)
        assert await on.heard(*tokens(STORY)) == STORY
        assert (on.server.connections, went_well(on.server)) == (1, True)


async def idle(row: Row, key: str) -> None:
    """A connection that waits for its next turn is there, or replaced in time; a model that pauses costs no word."""
    async with stage(row, key, pace=4.0) as on:
        conversation = on.conversation()
        for pause_s in (15.0, 100.0, 900.0):
            turn = conversation.turn(script("Before it pauses, this is said. ", pause_s / 10, "And this afterwards."))
            assert await heard(turn) == "Before it pauses, this is said. And this afterwards."
            assert turn.stats.resumed == 0
            await asyncio.sleep(pause_s)


async def silent(row: Row, key: str) -> None:
    """An endpoint that says nothing does not hold a turn for ever."""
    async with stage(row, key) as on:
        on.server.faults = Faults(first_byte_s=math.inf)
        async with asyncio.timeout(300.0):
            with pytest.raises(SpeechError):
                await on.heard("Hello. ")


async def error(row: Row, key: str) -> None:
    """A turn that the endpoint gives up with an error is said again."""
    async with stage(row, key) as on:
        on.server.failures = 1
        assert await on.heard(*tokens(STORY)) == STORY
        assert on.server.failures == 0


async def goodbye(row: Row, key: str) -> None:
    """Connections are closed in good order, and soon."""
    now = asyncio.get_running_loop().time
    async with row.server(coding=CODING, key=key) as server:
        async with Pool() as pool:
            dialect = row.speaks(Setup(server.url, "", FORMAT, key))
            assert await heard(Conversation(pool, [Endpoint(dialect)]).turn(script("Hello. "))) == "Hello."
            since = now()
        await server.until(lambda s: s.open == 0)
        assert now() - since < 1.0
        assert went_well(server)


CASES: tuple[Case, ...] = (
    *(speak, flush, end, nothing, interrupt, stale, cut, limits, crowd, neighbours),
    *(wrong_key, refused, unknown, idle, silent, error, goodbye),
)


def table() -> Iterator[object]:
    for row in (*ROWS, *DESCRIBED):
        for case in CASES:
            name = case.__name__
            why = row.exceptions.get(name)
            marks = [pytest.mark.xfail(reason=why, strict=True)] if why else []
            yield pytest.param(row, case, id=f"{row.dialect}-{name}", marks=marks)


@pytest.mark.parametrize(("row", "case"), list(table()))
def test_every_dialect_meets_every_case(
    row: Row, case: Callable[[Row, str], Any], canary: Callable[[], str], record_property: Callable[[str, object], None]
) -> None:
    record_property("conformance", f"{row.dialect} {case.__name__}")
    run(case(row, canary()))


def test_a_dialect_has_two_exceptions_at_most_each_with_its_reason() -> None:
    names = {case.__name__ for case in CASES}
    for row in (*ROWS, *DESCRIBED):
        assert len(row.exceptions) <= 2
        assert names.issuperset(row.exceptions)
        assert all(row.exceptions.values())


def test_every_dialect_has_a_row() -> None:
    assert [row.dialect for row in ROWS] == list(DIALECTS)
