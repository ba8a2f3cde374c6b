"""Endpoints that tell when words are spoken: what was heard is known to the word, and none is heard twice."""

from __future__ import annotations

import asyncio
import itertools
import math
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.testing import Coding, Drop, How, decode, script, tokens
from llm2ws.testing.endpoint import FaultyEndpoint
from llm2ws.turn import Audio, Conversation, Outcome
from scripts.bench_seam import compare
from scripts.virtual_clock import run
from tests.vendors.cartesia import CartesiaServer
from tests.vendors.elevenlabs import ElevenLabsServer
from tests.whole import FORMAT, audio_of, listen

STORY = "The sky is blue, my friend. It has 2 colours at $3.50 each; red goes on. “That” is well-known, isn't it? Yes."
MARKED = "## A title\n\nThe *sky* is [blue](https://example.com/a/long/way/to/the/sky), my **friend**. It has `two` colours.\n"
VENDORS = pytest.mark.parametrize(
    ("name", "vendor"), [("elevenlabs", ElevenLabsServer), ("cartesia", CartesiaServer)], ids=["elevenlabs", "cartesia"]
)
Vendor = Callable[..., FaultyEndpoint[Any]]


@asynccontextmanager
async def talk(name: str, server: FaultyEndpoint[Any]) -> AsyncIterator[Conversation]:
    async with server, Pool() as pool:
        yield Conversation(pool, [Endpoint(DIALECTS[name](Setup(server.url, "", FORMAT)), name)])


@VENDORS
@pytest.mark.parametrize("stretch", [0.0, 0.08])
def test_after_a_lost_connection_no_word_is_lost_and_none_repeated(name: str, vendor: Vendor, stretch: float) -> None:
    async def cut(at_frame: int) -> tuple[bool, str]:
        coding = Coding(char_samples=480, lead_in_s=0.1, stretch=stretch)
        server = vendor(coding=coding, max_frame_bytes=9_600, seed=at_frame, pace=3.0)
        server.drops.append(Drop(How.RESET, at_frame=at_frame))
        async with talk(name, server) as conversation:
            events = await listen(conversation.turn(script(*tokens(STORY))))
            return not server.drops, decode(without_clicks(audio_of(events)))

    for at_frame in count():
        dropped, said = run(cut(at_frame))
        if not dropped:
            break
        if said != STORY:  # the time of the last word, which comes after it, was lost with the connection: it is begun again
            assert (name, stretch > 0) == ("cartesia", True), (at_frame, said)
            assert compare(said, STORY) <= (0, 1), (at_frame, said)
    assert at_frame > 20


def without_clicks(pcm: bytes) -> bytes:
    """What lasts less than 2 ms is no sound: times are told in milliseconds."""
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    runs = ((value, len(list(run))) for value, run in itertools.groupby(samples))
    return b"".join(struct.pack("<h", value if n > 48 else 0) * n for value, n in runs)


@VENDORS
@pytest.mark.parametrize("text", [STORY, MARKED], ids=["plain", "marked"])
def test_what_was_heard_is_known_to_the_word(name: str, vendor: Vendor, text: str) -> None:
    async def speak() -> None:
        server = vendor(coding=Coding(char_samples=480, stretch=0.3), seed=3)
        async with talk(name, server) as conversation:
            turn = conversation.turn(script(*tokens(text)))
            audio = audio_of(await listen(turn))
        words = decode(audio).split()
        for n_bytes in range(0, len(audio), 2_000):
            heard = turn.spoken.split(FORMAT.seconds(n_bytes))
            so_far = decode(audio[:n_bytes]).split()
            whole = len(so_far) - (bool(so_far) and so_far[-1] != words[len(so_far) - 1])
            assert abs(len(cleaned(heard.heard).split()) - whole) <= (1 if so_far == words[: len(so_far)] else 0), heard
            assert heard.heard + heard.unheard == text
            assert heard.error_s == 0.0

    def cleaned(heard: str) -> str:
        return heard if text is STORY else decode_marks(heard)

    run(speak())


def decode_marks(text: str) -> str:
    """Markdown as it is spoken."""
    for mark in ("## ", "*", "`", "(https://example.com/a/long/way/to/the/sky)", "[", "]"):
        text = text.replace(mark, "")
    return text


@VENDORS
def test_texts_begin_where_their_first_word_does(name: str, vendor: Vendor) -> None:
    async def speak() -> None:
        server = vendor(coding=Coding(char_samples=900, lead_in_s=0.0, sentence_pause_s=0.5), max_frame_bytes=1_920)
        async with talk(name, server) as conversation:
            turn = conversation.turn(script("One two three. ", 0.01, "Four five six. ", 0.01, "Seven. "))
            audio = audio_of(await listen(turn))
        sayings = [saying for stretch in turn.spoken.stretches for saying in stretch.sayings]
        said = [decode(audio[FORMAT.bytes_for(saying.at_s + 0.001) :]) for saying in sayings]
        assert said == ["One two three. Four five six. Seven.", "Four five six. Seven.", "Seven."]

    run(speak())


@VENDORS
@pytest.mark.parametrize("char_samples", [60, 2_400])
def test_a_voice_that_is_much_faster_or_slower_than_expected_is_given_all_its_text(
    name: str, vendor: Vendor, char_samples: int
) -> None:
    async def speak() -> None:
        text = STORY * 12
        async with talk(name, vendor(coding=Coding(char_samples=char_samples), pace=20.0)) as conversation:
            turn = conversation.turn(script(*tokens(text)))
            async with asyncio.timeout(600.0), turn:
                audio = b"".join([event.data async for event in turn.events() if isinstance(event, Audio)])
            assert (decode(audio), turn.outcome) == (decode_spaces(text), Outcome.DONE)

    run(speak())


def decode_spaces(text: str) -> str:
    return " ".join(text.split())


@VENDORS
def test_a_model_that_pauses_for_minutes_is_waited_for(name: str, vendor: Vendor) -> None:
    async def speak() -> None:
        server = vendor(coding=Coding(), pace=4.0)
        async with talk(name, server) as conversation:
            turn = conversation.turn(script("Before. ", 0.7, "Soon. ", 1.2, "Later. ", 29.0, "And after."))
            events = await listen(turn)
            assert decode(audio_of(events)) == "Before. Soon. Later. And after."
            assert (turn.stats.resumed, server.connections, server.closed_with) == (0, 1, [])

    run(speak())


def test_a_turn_takes_as_many_contexts_as_pauses_make_of_it() -> None:
    async def speak() -> None:
        server = CartesiaServer(coding=Coding(), pace=4.0)
        async with talk("cartesia", server) as conversation:
            await listen(conversation.turn(script("One. ", "Two. ", 2.0, "Three. ", 0.2, "Four. ", 2.0, "Five.")))
            assert server.contexts == 3
            ended = [entry.message for entry in server.log if not entry.message["continue"]]
            assert [message["context_id"] for message in ended] == ["1", "2", "3"]
            await listen(conversation.turn(script("Next.")))
            assert server.log[-1].message["context_id"] == "4"

    run(speak())


def test_the_sixth_turn_at_once_takes_another_connection() -> None:
    async def speak() -> None:
        server = ElevenLabsServer(coding=Coding(char_samples=480), pace=1.0)
        async with server, Pool() as pool:
            endpoint = Endpoint(DIALECTS["elevenlabs"](Setup(server.url, "", FORMAT)), "elevenlabs")
            turns = [Conversation(pool, [endpoint]).turn(script(*tokens(STORY))) for _ in range(6)]
            heard = await asyncio.gather(*map(listen, turns))
            assert [decode(audio_of(events)) for events in heard] == [STORY] * 6
            assert (server.connections, server.contexts_most, server.closed_with) == (2, 5, [])

    run(speak())


def test_interrupted_contexts_give_their_places_back_when_the_endpoint_says_so() -> None:
    async def speak() -> None:
        server = ElevenLabsServer(coding=Coding(char_samples=480), pace=1.0)
        async with talk("elevenlabs", server) as conversation:
            for _ in range(12):
                async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
                    async for _ in turn.audio():
                        break
            events = await listen(conversation.turn(script("The end.")))
            assert decode(audio_of(events)) == "The end."
            assert (server.connections, server.closed_with) == (1, [])
            assert server.contexts_most <= 5

    run(speak())


def test_only_a_context_that_was_begun_is_kept_alive() -> None:
    async def speak() -> None:
        server = ElevenLabsServer(coding=Coding(), pace=4.0)
        async with talk("elevenlabs", server) as conversation:
            await listen(conversation.turn(script("One. ", 25.0, "Two. ")))
            await asyncio.sleep(500.0)  # the pool keeps a connection that long that nobody uses
            assert decode(audio_of(await listen(conversation.turn(script("Three."))))) == "Three."
            assert (server.connections, server.closed_with) == (1, [])
        first: dict[str | None, dict[str, object]] = {}
        for entry in server.log:
            first.setdefault(entry.message.get("context_id"), entry.message)
        assert first.pop(None) == {"text": ""}  # the connection's
        assert all(message["text"] == " " for message in first.values())

    run(speak())
