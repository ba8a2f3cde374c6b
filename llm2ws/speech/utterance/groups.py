"""A group: the Speaks under one Flush. What came of it, where it goes on when said again, what is told of it afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from ...audio import AudioFormat
from ..messages import Word
from .backlog import Text
from .heard import Saying, Stretch
from .seam import NEAR_S, Repeat, Seam, Take, place_like
from .timing import Known, Mark, find_words, resume_at, time_of, word_end

__all__ = ["Group", "Released", "Resume"]

# What comes out, in order: a text that begins to be heard, audio, or the place at which a repeat went on.
Released = Saying | bytes | Seam


class Resume(StrEnum):
    """What becomes of a group whose connection is lost when a part of it has been handed out."""

    SEAM = "seam"  # it is said again, and goes on where it broke off
    NEXT_GROUP = "next-group"  # its rest is left out
    FAIL = "fail"  # the turn is lost


UNMARKED_S = 2.0  # beyond twice of what was heard: a repeat without times for its words is taken for one that gets none


@dataclass(slots=True)
class Group:
    """Some texts of a turn, and their audio as far as it has come. Times are in seconds."""

    format: AudioFormat
    texts: list[Text] = field(default_factory=list)
    said: int = 0  # of `texts`, sent on the present connection
    chars: int = 0  # of all `texts`
    closed: bool = False  # takes no more text: it was flushed once
    flushed: bool = False  # on the present connection
    acked: bool = False
    silent: int = 0  # how often it was acknowledged without any audio
    unheard: bool = False  # given up: no endpoint had audio for it
    received: int = 0  # bytes, whole samples
    odd: bytes = b""  # half a sample
    held: list[bytes] = field(default_factory=list)  # waits for earlier groups
    heard: Take | None = None  # what was handed out of it
    repeat: Repeat | None = None  # while it is said again, until it is known where that goes on
    announced: int = 0  # of `texts`
    announced_chars: int = 0  # of these; a group may have thousands, and they are looked at with each read
    start_s: float = 0.0  # in the turn's audio
    next_at_s: float = -math.inf  # when the next of `texts` begins, in the turn's audio; -inf: not known
    # Where the endpoint tells when words are spoken; times count from the group's audio, and from the repeat's.
    marks: list[Mark] = field(default_factory=list)
    repeat_marks: list[Mark] = field(default_factory=list)
    told: bool = False  # times come before their audio
    found: Seam | None = None  # by the sound
    shift_s: float = 0.0  # what is now said of it began so much before the endpoint's own audio

    @property
    def text(self) -> str:
        return "".join(text.text for text in self.texts)

    @property
    def said_chars(self) -> int:
        return self.chars if self.said == len(self.texts) else sum(len(text.text) for text in self.texts[: self.said])

    @property
    def received_s(self) -> float:
        return self.format.seconds(self.received)

    def add(self, text: Text) -> None:
        """One more text belongs to it."""
        self.texts.append(text)
        self.chars += len(text.text)

    def settle(self) -> None:
        """Nothing more comes of it, and nothing more is to be said."""
        self.said = len(self.texts)
        self.closed = self.flushed = self.acked = True

    @property
    def lacks_audio(self) -> bool:
        """Whether there is something to say in it, and no audio of it has come."""
        return not self.received and self.repeat is None and any(text.speakable for text in self.texts)

    # What comes

    def timed(self, words: Iterable[Word], *, from_here: bool) -> None:
        """When words are spoken of it, or of its repeat: counted from the start of the endpoint's context, or `from_here`."""
        self.next_at_s = -math.inf
        if self.repeat is not None:
            marks, base_s = self.repeat_marks, 0.0
            here_s = self.format.seconds(len(self.repeat.take.data))
        else:
            marks, base_s = self.marks, self.shift_s
            here_s, self.told = self.received_s, from_here
        marks += find_words(words, self.text, marks[-1] if marks else None, here_s if from_here else base_s)

    def announce(self, until_s: float, seconds_per_char: float) -> list[Saying]:
        """Return the texts that begin in the turn's audio before `until_s`, and were not given yet."""
        sayings: list[Saying] = []
        while self.announced < len(self.texts):
            at_s = self.at_s(self.announced_chars, seconds_per_char)
            if at_s >= until_s:
                self.next_at_s = at_s
                break
            text = self.texts[self.announced]
            sayings.append(Saying(text.text, text.start, text.end, at_s))
            self.announced += 1
            self.announced_chars += len(text.text)
        return sayings

    def at_s(self, chars: int, seconds_per_char: float) -> float:
        """When what follows after so many characters begins, in the turn's audio."""
        return self.start_s + time_of(self.marks, chars, seconds_per_char)

    # Said again

    def split_heard(self) -> Group | None:
        """Take off what is known to have been heard and is not said again: return those texts as a group of their own.

        None where there are none. When that is all of them, it is settled, and None as well.
        """
        told = [mark for mark in self.marks if mark.end_s <= self.received_s]
        if self.heard is None or not told:
            return None
        n, chars, heard_chars = 0, 0, word_end(self.text, told[-1].end)
        for text in self.texts:
            if chars + len(text.text.rstrip()) > heard_chars:
                break
            n, chars = n + 1, chars + len(text.text)
        if n == len(self.texts):
            self.settle()
        if n in (0, len(self.texts)):
            return None
        next_s = next((mark.start_s for mark in self.marks if mark.begin >= chars), self.received_s)
        return self.take_off(n, min(next_s, self.received_s))

    def take_off(self, n: int, seconds: float) -> Group:
        """Its first texts, which were heard for so long, as a group of their own."""
        n_bytes = self.format.bytes_for(seconds)
        cut_s, chars = self.format.seconds(n_bytes), sum(len(text.text) for text in self.texts[:n])
        first, rest = ([m for m in self.marks if m.end <= chars], [m for m in self.marks if m.begin >= chars])
        taken = Group(self.format, self.texts[:n], chars=chars, acked=True, received=n_bytes, start_s=self.start_s, marks=first)
        del self.texts[:n]
        self.chars -= chars
        self.announced = max(0, self.announced - n)
        self.announced_chars = max(0, self.announced_chars - chars)
        self.start_s += cut_s
        self.next_at_s = -math.inf
        self.received -= n_bytes
        self.marks = [Mark(m.begin - chars, m.end - chars, m.start_s - cut_s, m.end_s - cut_s) for m in rest]
        if self.heard is not None:
            self.heard.forget(self.received)
        if not self.received:
            self.heard = None
        return taken

    def say_again(self) -> None:
        """Its connection is lost: it is said again from its start, and goes on from what was handed out of it."""
        self.said, self.flushed, self.odd = 0, False, b""
        if self.heard is None:
            self.received, self.held, self.marks, self.shift_s = 0, [], [], 0.0
        else:
            self.repeat, self.repeat_marks, self.found = Repeat(self.heard), [], None

    def seam(self, found: Seam | None) -> Seam | None:
        """Where a repeat goes on: by its words where their times are known, else as `found` by its sound.

        None while that cannot be told.
        """
        if self.repeat is None or self.heard is None or not self.marks:
            return found
        repeated_s = self.format.seconds(len(self.repeat.take.data))
        self.found = found or self.found
        place = resume_at(self.marks, self.repeat_marks, self.received_s, told=self.told)
        if place is None:
            return self.found if repeated_s > 2 * self.received_s + UNMARKED_S else None
        if place.known is Known.NOTHING and not self.heard.ends_quiet:
            return self.found  # somewhere in a word
        if place.at_s + NEAR_S > repeated_s:
            return None
        at_s = place.at_s if place.known is Known.WORD else place_like(self.heard, self.repeat.take, place.at_s)
        return Seam(self.format.bytes_for(at_s), 0.0, 1.0)

    def join(self, seam: Seam) -> bytes:
        """Go on from there: what has come of the repeat behind it."""
        assert self.repeat is not None
        rest = bytes(self.repeat.take.data[seam.at_bytes :])
        self.repeat, self.next_at_s = None, -math.inf
        heard_s, seam_s = self.received_s, self.format.seconds(seam.at_bytes)
        self.shift_s = shift_s = heard_s - seam_s
        # The words heard before the seam, and the repeat's behind it.
        self.marks = [mark for mark in self.marks if mark.start_s < heard_s]
        after = self.marks[-1].end if self.marks else 0
        behind = [mark for mark in self.repeat_marks if mark.end > after and mark.end_s > seam_s]
        self.marks += [mark._replace(start_s=mark.start_s + shift_s, end_s=mark.end_s + shift_s) for mark in behind]
        self.repeat_marks = []
        self.received += len(rest)
        return rest

    # Afterwards

    def stretch(self, seconds_per_char: float) -> Stretch:
        """Return what was heard of it, and when, in the turn's audio."""
        seconds = self.received_s
        share = seconds / self.chars if self.chars else 0.0
        if not self.acked:  # cut off: as much of it as was likely said
            share = max(share, seconds_per_char)
            seconds = max(share * self.chars, self.marks[-1].end_s if self.marks else 0.0)
        sayings, before = [], 0
        for text in self.texts:
            sayings.append(Saying(text.text, text.start, text.end, self.at_s(before, share)))
            before += len(text.text)
        words = tuple(m._replace(start_s=self.start_s + m.start_s, end_s=self.start_s + m.end_s) for m in self.marks)
        pauses = self.heard.envelope.pauses() if self.heard is not None else []
        shifted = tuple((self.start_s + start_s, self.start_s + end_s) for start_s, end_s in pauses)
        return Stretch(self.start_s, self.start_s + seconds, tuple(sayings), shifted, words)
