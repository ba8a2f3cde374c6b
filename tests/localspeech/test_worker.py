"""The worker's parts within this process, where coverage sees them; test_engine.py tests the process as a whole."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import espeakng_loader
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.localspeech import worker
from llm2ws.localspeech.worker import HEADER, WORD, Job, Synthesizer, describe, load, speakable

STORY = "The quick brown fox jumped over the lazy dog. Did it? Yes; of course, and more than once. " * 4

DATA = Path(espeakng_loader.__file__).parent  # which must be the current folder while the library works

Frame = tuple[str, int, bytes]


class Rendered:
    """A synthesizer and the frames that it sends."""

    def __init__(self, synthesizer: Synthesizer, out: io.BytesIO, live: dict[int, Job]) -> None:
        self.synthesizer = synthesizer
        self.out = out
        self.live = live

    def slice(self, job: Job) -> list[Frame]:
        """Return the frames of the next slice."""
        self.out.seek(0)
        self.out.truncate()
        with contextlib.chdir(DATA):
            self.synthesizer.render(job)
        data, frames = self.out.getvalue(), list[Frame]()
        while data:
            kind, number, length = HEADER.unpack_from(data)
            frames.append((chr(kind), number, data[HEADER.size : HEADER.size + length]))
            data = data[HEADER.size + length :]
        return frames

    def job(self, number: int, text: str, rate_hz: int = 24_000) -> Job:
        self.live[number] = Job(number, text, voice="gmw/en-US", wpm=175, pitch=50, rate_hz=rate_hz)
        return self.live[number]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    live: dict[int, Job] = {}
    out = io.BytesIO()
    with contextlib.chdir("."):  # restores the folder that load() leaves
        library, rate_hz = load(str(DATA))
    return Rendered(Synthesizer(library, rate_hz, live, out), out, live)


def test_a_text_is_rendered_in_slices_with_the_places_of_its_words(rendered: Rendered) -> None:
    job = rendered.job(7, STORY)
    slices = []
    while 7 in rendered.live:
        slices.append(rendered.slice(job))
    assert len(slices) > 3
    assert [frames[-1][0] for frames in slices] == [*"s" * (len(slices) - 1), "e"]
    frames = [frame for each in slices for frame in each]
    assert {number for _, number, _ in frames} == {7}
    seconds = sum(len(payload) for kind, _, payload in frames if kind == "a") / 48_000
    assert seconds == pytest.approx(job.samples / rendered.synthesizer.rate_hz, abs=0.01)
    words = [WORD.unpack(payload) for kind, _, payload in frames if kind == "w"]
    assert [STORY[at : at + length].strip(" .,;?") for at, length, _ in words] == re.findall(r"\w+", STORY)
    times = [at_ms for _, _, at_ms in words]
    assert times == sorted(times)
    assert times[-1] / 1000 < seconds


def test_two_texts_may_take_turns(rendered: Rendered) -> None:
    jobs = [rendered.job(number, STORY, rate_hz) for number, rate_hz in ((1, 8_000), (2, 24_000))]
    n_bytes = [0, 0]
    while rendered.live:
        for i, job in enumerate(jobs):
            if job.number in rendered.live:
                n_bytes[i] += sum(len(payload) for kind, _, payload in rendered.slice(job) if kind == "a")
    assert n_bytes[1] == pytest.approx(3 * n_bytes[0], rel=0.01)


def test_nothing_is_sent_for_a_text_that_was_cancelled(rendered: Rendered) -> None:
    job = rendered.job(3, STORY)
    rendered.slice(job)
    del rendered.live[3]
    assert rendered.slice(job) == [("b", 3, b"")]


@pytest.mark.parametrize("text", ["", " . ... ", "?!", "\0"])
def test_a_text_without_a_word_only_ends(rendered: Rendered, text: str) -> None:
    assert rendered.slice(rendered.job(4, text)) == [("b", 4, b""), ("e", 4, b"")]


def test_it_says_which_voices_there_are(rendered: Rendered) -> None:
    with contextlib.chdir(DATA):
        hello = json.loads(json.dumps(describe(rendered.synthesizer.library)))
    assert re.fullmatch(r"\d+\.\d+.*", hello["version"])
    assert {"en-us": "gmw/en-US", "de": "gmw/de", "english (america)": "gmw/en-US"}.items() <= hello["voices"].items()
    assert not any(file.startswith("mb/") for file in hello["voices"].values())
    assert {"f1", "m1"} <= set(hello["variants"])


def test_what_was_tried_is_named_when_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SYSTEM_LIBRARIES", ("libmissing.so.1",))
    with pytest.raises(OSError, match=r"libmissing\.so\.1"):
        load("")


@given(st.text())
def test_what_is_replaced_keeps_all_places(text: str) -> None:
    spoken = speakable(text)
    spoken.encode()
    assert all(new in (old, " ") for new, old in zip(spoken, text, strict=False))
    assert not spoken or not re.search(r"\w", text[len(spoken) :])  # only blanks and closing marks are cut off


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("One. Two.", "One. Two."),
        ("He said: “Go.” Then\0 he went.", "He said: “Go.  Then  he went."),
        ("Lone \ud800 surrogate", "Lone   surrogate"),
        ("A.B." * 12, "A.B." * 9 + "A.B A.B.A.B."),
        ("?!…", ""),
    ],
)
def test_what_the_library_cannot_take_is_replaced(text: str, spoken: str) -> None:
    assert speakable(text) == spoken
