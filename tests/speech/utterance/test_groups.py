from __future__ import annotations

import math
import struct
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat
from llm2ws.speech.dialect import Limits
from llm2ws.speech.messages import Word
from llm2ws.speech.session.session import Session
from llm2ws.speech.utterance.groups import Resume
from llm2ws.speech.utterance.pacing import Pace, Pacing
from llm2ws.speech.utterance.steps import Act, Step
from llm2ws.speech.utterance.utterance import Utterance
from llm2ws.text.fragments import Boundary, Fragment
from tests.speech.utterance.fragments import DIALECT, FORMAT, fragments


def test_audio_in_odd_pieces_comes_out_in_whole_samples() -> None:
    utterance, out = Utterance(FORMAT), b""
    utterance.add(fragments("Hello.")[0])
    utterance.finish()
    utterance.say()
    utterance.flush()
    data = bytes(range(1, 100))
    for piece in (data[:1], data[1:2], data[2:5], data[5:50], data[50:]):
        chunks = [item for item in utterance.received(piece) if isinstance(item, bytes)]
        assert all(len(chunk) % 2 == 0 and chunk for chunk in chunks)
        out += b"".join(chunks)
    assert out == data[:98]
    utterance.acked()
    assert utterance.complete


def test_a_refused_flush_joins_the_next_group() -> None:
    utterance = Utterance(FORMAT)
    for fragment in fragments("One.", " Two.", " Three."):
        utterance.add(fragment)
    for _ in range(2):
        utterance.say()
        utterance.flush()
    utterance.say()
    utterance.refused()
    assert (utterance.flushes, utterance.open_chars) == (1, len("Two. Three. "))
    utterance.flush()
    utterance.finish()
    for _ in range(2):
        utterance.received(b"\x01" * 4_000)
        utterance.acked()
    assert utterance.complete


def test_what_is_said_again_is_not_flushed_before_it_is_complete() -> None:
    """A Flush is refused on the new connection, while the next group has not been said again yet."""
    gate, pacing, utterance = Session(DIALECT, now=0.0, limits=Limits()), Pacing(Pace.NONE), Utterance(FORMAT)
    for fragment in fragments("One.", " Two.", " Three."):
        utterance.add(fragment)
    utterance.say()
    utterance.flush()
    utterance.say()
    utterance.say()
    assert utterance.lost()
    assert utterance.say() == "One. "
    utterance.flush()
    utterance.refused()
    steps = list[Step]()
    while not steps or steps[-1] is Act.SPEAK:
        steps.append(pacing.next_step(utterance, gate, 0.0))
        if steps[-1] is Act.SPEAK:
            utterance.say()
    assert (steps, utterance.open_chars) == ([Act.SPEAK, Act.SPEAK, Act.FLUSH], len("One. Two. Three. "))


def timed_words(text: str, letter_s: float, at_s: float = 0.0) -> list[Word]:
    """Its words, each letter so long, the spaces as well."""
    words = []
    for word in text.split():
        words.append(Word(word, at_s, at_s + len(word) * letter_s))
        at_s += (len(word) + 1) * letter_s
    return words


@given(
    cut_s=st.floats(0.05, 7.0) | st.integers(1, 70).map(lambda n: n / 10),
    speed=st.sampled_from([0.85, 1.0, 1.2]),
    lead_s=st.floats(0.0, 0.2),
    frame_s=st.sampled_from([0.03, 0.5]),
)
def test_by_the_times_of_its_words_a_repeat_goes_on_where_it_broke_off(
    cut_s: float, speed: float, lead_s: float, frame_s: float
) -> None:
    texts = ["One two three. ", "Four five, six seven eight. ", "Nine ten eleven twelve. "]
    letter_s, fmt = 0.1, AudioFormat(sample_rate_hz=8_000)
    utterance, at = Utterance(fmt, group_s=math.inf), 0
    for index, text in enumerate(texts):
        utterance.add(Fragment(index, text, at, at + len(text), Boundary.SENTENCE, ""))
        at += len(text)
    while utterance.peek():
        utterance.say()
    utterance.finish()
    whole = "".join(texts)

    def render(text: str, letter_s: float) -> bytes:
        """Each character as long as the words' times say, and told by its value; a space is silence."""
        values = (0 if char == " " else 100 * ord(char) for char in text)
        return b"".join(struct.pack("<h", value) * round(letter_s * 8_000) for value in values)

    heard = bytearray()
    utterance.timed(timed_words(whole, letter_s))
    first = render(whole, letter_s)[: fmt.bytes_for(cut_s)]
    heard += b"".join(item for item in utterance.received(first) if isinstance(item, bytes))
    assert utterance.lost()
    again = ""
    while utterance.peek():
        again += utterance.say()
    assert whole.endswith(again)
    if again:
        utterance.timed(timed_words(again, letter_s / speed, lead_s))
        second = fmt.silence * round(lead_s * 8_000) + render(again, letter_s / speed)
        step = fmt.bytes_for(frame_s)
        for begin in range(0, len(second), step):
            released = utterance.received(second[begin : begin + step])
            heard += b"".join(item for item in released if isinstance(item, bytes))
    heard += b"".join(item for item in utterance.ended() if isinstance(item, bytes))
    assert utterance.complete
    values = [value // 100 for value in struct.unpack(f"<{len(heard) // 2}h", heard)]
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    runs = [(value, n) for value, n in runs if value and n > 24]  # 3 ms: less is no sound
    shortest = 8_000 * letter_s * min(1.0, 1 / speed)
    longest = 8_000 * letter_s * max(1.0, 1 / speed)
    assert all(0.95 * shortest <= n <= 2.1 * longest for value, n in runs if chr(value).isalnum())
    said = "".join(chr(value) for value, _ in runs)
    # A mark behind the last word that was heard makes no sound: nobody goes back for it.
    assert [*filter(str.isalnum, said)] == [*filter(str.isalnum, (char for char, _ in groupby(whole)))]
    spoken = utterance.spoken(whole)
    assert spoken.split(fmt.seconds(len(heard)) - 0.01).error_s == 0.0
    middle = spoken.split(min(cut_s, 5.0) / 2)
    assert middle.heard + middle.unheard == whole
    assert (not middle.heard) or middle.heard[-1].isspace() or middle.unheard[:1].isspace() or not middle.unheard


def test_what_is_known_to_have_been_heard_to_its_end_is_no_loss() -> None:
    utterance = Utterance(FORMAT, group_s=math.inf, resume=Resume.FAIL)
    for index, text in enumerate(("One two. ", "Three four. ", "Five. ")):
        utterance.add(Fragment(index, text, 0, 0, Boundary.SENTENCE, ""))
    utterance.say()
    utterance.timed(timed_words("One two.", 0.1))
    utterance.received(b"\1" * FORMAT.bytes_for(0.75))
    assert not utterance.complete
    assert utterance.lost()  # between two texts
    assert utterance.peek() == "Three four. "
    utterance.say()
    utterance.say()
    utterance.timed(timed_words("Three four. Five.", 0.1))
    utterance.received(b"\1" * FORMAT.bytes_for(1.2))
    assert utterance.lost()  # where the second of them begins
    assert (utterance.peek(), utterance.repeating) == ("Five. ", False)
    utterance.say()
    utterance.timed(timed_words("Five.", 0.1))
    utterance.received(b"\1" * FORMAT.bytes_for(0.3))
    assert not utterance.lost()  # within it
