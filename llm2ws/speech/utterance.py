"""One turn's speech, whatever connections carry it: what is to be said, what was received of it, what may be released.

The unit is the *group*: the Speaks under one Flush. An endpoint acknowledges groups, audio is released in their order, and a
group whose connection is lost is said again, exactly its Speaks and its Flush.

A *carrier* is a place on a connection that says groups of this turn, numbered by the caller. Usually there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from ..audio import AudioFormat
from ..text.fragments import Boundary, Fragment
from .messages import Word
from .seam import EXACT_S, NEAR_S, Repeat, Seam, Take, place_like
from .spoken import Saying, Spoken, Stretch
from .timing import Known, Mark, find_words, resume_at, time_of, word_end

__all__ = ["GROUP_S", "Released", "Resume", "Utterance"]

# What comes out, in order: a text that begins to be heard, audio, or the place at which a repeat went on.
Released = Saying | bytes | Seam


class Resume(StrEnum):
    """What becomes of a group whose connection is lost when a part of it has been handed out."""

    SEAM = "seam"  # it is said again, and goes on where it broke off
    NEXT_GROUP = "next-group"  # its rest is left out
    FAIL = "fail"  # the turn is lost


SECONDS_PER_CHAR = 0.065  # of English speech, until the voice has shown its own
PACE_CHARS = 100  # after so many, the times of words tell its pace
UNMARKED_S = 2.0  # beyond twice of what was heard: a repeat without times for its words is taken for one that gets none
GROUP_S = 12.0


@dataclass(slots=True)
class _Text:
    """One Speak, and the span of the model's text that it stands for."""

    text: str
    start: int
    end: int


@dataclass(slots=True)
class _Group:
    texts: list[_Text] = field(default_factory=list)
    said: int = 0  # of `texts`, sent on the present carrier
    chars: int = 0  # of all `texts`
    closed: bool = False  # takes no more text: it was flushed once
    flushed: bool = False  # on the present carrier
    acked: bool = False
    carrier: int = 0
    received: int = 0  # bytes, whole samples
    odd: bytes = b""  # half a sample
    held: list[bytes] = field(default_factory=list)  # waits for earlier groups
    heard: Take | None = None  # what was handed out of it
    repeat: Repeat | None = None  # while it is said again, until it is known where that goes on
    announced: int = 0  # of `texts`
    start_s: float = 0.0  # in the turn's audio
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


class Utterance:
    """Fragments in; texts to send out. Audio in; audio in order out.

    `exact`: texts are sent as they are (policy TOKEN); else each that ends a word ends in one space. `max_chars`: no text is
    longer, None for any length. `group_s`: no group is longer, in estimated seconds of speech; inf where nothing but the end
    of the turn is acknowledged.
    """

    def __init__(
        self,
        fmt: AudioFormat,
        *,
        exact: bool = False,
        seconds_per_char: float = SECONDS_PER_CHAR,
        resume: Resume = Resume.SEAM,
        max_chars: int | None = None,
        group_s: float = GROUP_S,
    ) -> None:
        self.seconds_per_char = seconds_per_char
        self.left_out_chars = 0  # of groups whose rest was given up (Resume.NEXT_GROUP)
        self.unspeakable_chars = 0  # without a letter or digit, and with no neighbour to go with: never sent
        self.finished = False
        self.said_chars = 0
        self._format = fmt
        self._bytes_per_second = fmt.bytes_per_second
        self._exact = exact
        self._resume = resume
        self._max_chars = max_chars
        self._group_s = group_s
        self._backlog: deque[_Text] = deque()
        self._backlog_chars = 0
        self._carry: _Text | None = None  # without letter or digit: goes in front of the next text
        self._separate = False  # the last text ended with no separator, so the next keeps its own
        self._groups: deque[_Group] = deque()  # those not acked and fully released, oldest first
        self._stretches: list[Stretch] = []
        self._released = 0  # bytes

    # Text in

    def add(self, fragment: Fragment) -> None:
        """Take a fragment. Nothing of it is lost but what cannot be spoken at the very end."""
        text = _Text(self._sendable(fragment), fragment.start, fragment.end)
        if self._carry is not None:
            text, self._carry = self._join_texts(self._carry, text), None
        if _speakable(text):
            self._push(text)
        elif self._backlog:
            last = self._backlog.pop()
            self._backlog_chars -= len(last.text)
            self._push(self._join_texts(last, text))
        else:
            self._carry = text

    def finish(self) -> None:
        """There is no more text."""
        self.finished = True
        if self._carry is not None:
            group = self._current()
            if group is not None and group.texts and not group.closed:  # its Flush is still to come, so it may be sent
                self._push(self._carry)
            else:
                self._leave_out(self._carry)
            self._carry = None

    def _push(self, text: _Text) -> None:
        for part in _parts(text, self._max_chars):
            self._backlog.append(part)
            self._backlog_chars += len(part.text)

    def _join_texts(self, first: _Text, second: _Text) -> _Text:
        """Both as one; only the speakable one if they would be too long."""
        if self._max_chars is None or len(first.text) + len(second.text) <= self._max_chars:
            return _Text(first.text + second.text, first.start, second.end)
        kept, other = (first, second) if _speakable(first) else (second, first)
        self._leave_out(other)
        return kept

    def _leave_out(self, text: _Text) -> None:
        self.unspeakable_chars += len(text.text.strip())

    def _sendable(self, fragment: Fragment) -> str:
        text = _well_formed(fragment.text)
        if self._exact:
            return text
        joined = " ".join(text.split())
        if self._separate and text[:1].isspace():
            joined = " " + joined
        # A cut for length may be within a word; the white space after it, if any, is at the start of the next fragment.
        self._separate = fragment.boundary is Boundary.LENGTH and not text[-1:].isspace()
        return joined if self._separate or not joined else joined + " "

    # Text out

    def peek(self) -> str | None:
        """The next text to send, None when there is none or the group has to be flushed first."""
        group = self._current()
        if group is not None and group.said < len(group.texts):
            return group.texts[group.said].text
        if not self._backlog or (group is not None and (group.closed or self._full(group))):
            return None
        return self._backlog[0].text

    def say(self, carrier: int = 0) -> str:
        """Take the text that `peek` showed: it is being sent on this carrier."""
        group = self._current()
        if group is None:
            group = _Group()
            self._groups.append(group)
        if group.said == len(group.texts):
            text = self._backlog.popleft()
            self._backlog_chars -= len(text.text)
            group.texts.append(text)
            group.chars += len(text.text)
        group.carrier = carrier
        group.said += 1
        text = group.texts[group.said - 1]
        self.said_chars += len(text.text)
        return text.text

    def flush(self) -> None:
        """The open group is being flushed."""
        group = self._current()
        if group is not None:
            group.closed = group.flushed = True
        if self.finished and not any(map(_speakable, self._backlog)):  # marks that came too late for this group
            for text in self._backlog:
                self._leave_out(text)
            self._backlog.clear()
            self._backlog_chars = 0

    @property
    def open_chars(self) -> int:
        """Characters sent that no Flush covers yet."""
        group = self._current()
        return 0 if group is None else group.said_chars

    @property
    def must_flush(self) -> bool:
        """The open group can take no more text: it is full, or is being said again."""
        group = self._current()
        if group is None or not group.said or group.said < len(group.texts):
            return False
        return group.closed or self._full(group)

    @property
    def half_said(self) -> bool:
        """Some texts of the open group have to be said again before it may be flushed: it would lose them."""
        group = self._current()
        return group is not None and group.said < len(group.texts)

    @property
    def flushes(self) -> int:
        """Groups flushed and not acknowledged."""
        flushes = 0
        for group in self._groups:  # no generator: the turn asks several times for each token
            flushes += group.flushed and not group.acked
        return flushes

    @property
    def between_groups(self) -> bool:
        """No flush is on its way: speech can go on over another connection."""
        return not self.flushes

    @property
    def first_group(self) -> bool:
        """Nothing has been flushed yet: the listener hears nothing."""
        return not self._stretches and not any(group.closed for group in self._groups)

    @property
    def backlog_chars(self) -> int:
        """Characters that wait to be sent."""
        return self._backlog_chars

    @property
    def all_said(self) -> bool:
        """There is no more text, and all of it has been sent (not necessarily flushed)."""
        if not self.finished or self._backlog:
            return False
        return all(group.said == len(group.texts) for group in self._groups)  # several may have to be said again

    @property
    def complete(self) -> bool:
        """All text has been spoken and all its audio released."""
        return self.finished and not self._backlog and not self._groups

    @property
    def outstanding_s(self) -> float:
        """Seconds of audio that were asked for and have not come, as far as one can tell."""
        seconds = 0.0
        for group in self._groups:
            if not group.acked:
                seconds += max(0.0, group.said_chars * self.seconds_per_char - group.received / self._bytes_per_second)
        return seconds

    def _current(self) -> _Group | None:
        """The group that is being said: the oldest one not flushed."""
        for group in self._groups:
            if not group.flushed:
                return group
        return None

    def _full(self, group: _Group) -> bool:
        """Whether the next text would make it too long. A single text may be longer: it is not cut here."""
        if not self._backlog or not group.texts:
            return False
        return (group.chars + len(self._backlog[0].text)) * self.seconds_per_char > self._group_s

    # Audio in

    def received(self, data: bytes, carrier: int = 0) -> list[Released]:
        """Audio came on a carrier: it is of the oldest group there. Gives what may be handed out now."""
        group = next((group for group in self._groups if group.carrier == carrier and not group.acked), None)
        if group is None:
            return []
        if group.odd or len(data) % self._format.sample_bytes:
            data = group.odd + data
            whole = len(data) - len(data) % self._format.sample_bytes
            data, group.odd = data[:whole], data[whole:]
        if not data:
            return []
        if group.repeat is not None:
            return self._join(group, self._seam(group, group.repeat.feed(data)))
        group.received += len(data)
        if group is not self._groups[0]:
            group.held.append(data)
            return []
        return self._release(group, [data])

    def timed(self, words: Iterable[Word], carrier: int = 0, *, from_here: bool = False) -> list[Released]:
        """When words are spoken, of what `received` takes: counted from the start of the endpoint's context, or `from_here`.

        Gives what may be handed out now.
        """
        group = next((group for group in self._groups if group.carrier == carrier and not group.acked), None)
        if group is None:
            return []
        if group.repeat is not None:
            base_s = self._format.seconds(len(group.repeat.take.data)) if from_here else 0.0
            after = group.repeat_marks[-1] if group.repeat_marks else None
            group.repeat_marks += find_words(words, group.text, after, base_s)
            return self._join(group, self._seam(group, None))
        group.told = from_here
        base_s = self._format.seconds(group.received) if from_here else group.shift_s
        group.marks += find_words(words, group.text, group.marks[-1] if group.marks else None, base_s)
        if group.marks and group.marks[-1].end >= PACE_CHARS:
            self.seconds_per_char = group.marks[-1].end_s / group.marks[-1].end
        return []

    def acked(self, carrier: int = 0) -> list[Released]:
        """All audio of the oldest flushed group on a carrier has come. Gives what may be handed out now."""
        group = next((g for g in self._groups if g.carrier == carrier and g.flushed and not g.acked), None)
        if group is None:
            return []
        joined = [] if group.repeat is None else self._join(group, group.repeat.finish())
        group.acked = True
        if group.received:
            # A long group tells more than a short one.
            weight = min(0.5, group.chars / 400)
            self.seconds_per_char += weight * (self._format.seconds(group.received) / group.chars - self.seconds_per_char)
        return joined + self._release_acked()

    def ended(self, carrier: int = 0) -> list[Released]:
        """The endpoint has spoken all that a carrier was given, with no ack for each group."""
        joined: list[Released] = []
        for group in self._groups:
            if group.carrier == carrier and group.said == len(group.texts):
                if group.repeat is not None:
                    joined += self._join(group, group.repeat.finish())
                group.closed = group.flushed = group.acked = True
        return joined + self._release_acked()

    def refused(self, carrier: int = 0) -> None:
        """The newest Flush on a carrier was not carried out: its text joins the next group."""
        groups = [g for g in self._groups if g.carrier == carrier and g.flushed and not g.acked]
        if not groups:
            return
        group = groups[-1]
        group.flushed = group.closed = False
        at = self._groups.index(group)
        if at + 1 < len(self._groups):
            later = self._groups[at + 1]
            group.texts += later.texts
            group.said += later.said
            group.chars += later.chars
            del self._groups[at + 1]

    def lost(self, carrier: int = 0) -> bool:
        """A carrier is gone: what it had not finished is to be said again, exactly its Speaks and its Flush.

        False when a part of a group has been handed out and `Resume.FAIL` forbids to go on from there.
        """
        unfinished = [group for group in self._groups if group.carrier == carrier and not group.acked]
        for group in unfinished:
            self._part_heard(group)
            if group.acked:
                continue
            if group.heard is not None and self._resume is Resume.FAIL:
                return False
            group.said, group.flushed, group.odd = 0, False, b""
            if group.heard is None:
                group.received, group.held, group.marks = 0, [], []
                group.shift_s = 0.0
            elif self._resume is Resume.SEAM:
                group.repeat, group.repeat_marks, group.found = Repeat(group.heard), [], None
            else:
                self.left_out_chars += max(0, group.chars - round(self._format.seconds(group.received) / self.seconds_per_char))
                del group.texts[group.announced :]  # not said, as far as one can tell
                group.said, group.closed, group.flushed, group.acked = len(group.texts), True, True, True
        self._release_acked()
        return True

    def _part_heard(self, group: _Group) -> None:
        """What is known to have been heard of a group is not said again: its first texts become a group of their own."""
        heard_s = self._format.seconds(group.received)
        told = [mark for mark in group.marks if mark.end_s <= heard_s]
        if group.heard is None or not told:
            return
        n, chars, heard_chars = 0, 0, word_end(group.text, told[-1].end)
        for text in group.texts:
            if chars + len(text.text.rstrip()) > heard_chars:
                break
            n, chars = n + 1, chars + len(text.text)
        if not n:
            return
        if n == len(group.texts):
            group.said, group.closed, group.flushed, group.acked = n, True, True, True
            return
        next_s = next((mark.start_s for mark in group.marks if mark.begin >= chars), heard_s)
        n_bytes = self._format.bytes_for(min(next_s, heard_s))
        self._stretches.append(self._stretch(_first(group, n, chars, n_bytes)))
        cut_s = self._format.seconds(n_bytes)
        del group.texts[:n]
        group.chars -= chars
        group.announced = max(0, group.announced - n)
        group.start_s += cut_s
        group.received -= n_bytes
        rest = [mark for mark in group.marks if mark.begin >= chars]
        group.marks = [Mark(m.begin - chars, m.end - chars, m.start_s - cut_s, m.end_s - cut_s) for m in rest]
        group.heard.forget(group.received)
        if not group.received:
            group.heard = None

    def restart(self, handed_s: float, *, group_s: float = GROUP_S) -> tuple[float, int]:
        """After `lost`: another voice goes on, from the start of the text that was being heard.

        `handed_s`: how much audio has left for the listener. `group_s`: as for the Utterance, of the new endpoint. Gives up to
        where released audio stays valid, in seconds, and how many characters are heard again.
        """
        self._group_s = group_s
        group = self._groups[0] if self._groups else None
        if group is None or not group.announced:
            self._regroup()
            return self.released_s, 0
        before = sum(len(text.text) for text in group.texts[: group.announced - 1])
        begins_s = min(self._at_s(group, before), self.released_s)
        cut_s = max(handed_s, begins_s)
        if group.announced > 1:
            n_bytes = self._format.bytes_for(begins_s - group.start_s)
            self._stretches.append(self._stretch(_first(group, group.announced - 1, before, n_bytes)))
        repeated = len(group.texts[group.announced - 1].text) if handed_s > begins_s else 0
        del group.texts[: group.announced - 1]
        group.chars -= before
        group.announced, group.received, group.heard, group.repeat = 0, 0, None, None
        group.marks, group.shift_s = [], 0.0
        self._released = self._format.bytes_for(cut_s)
        self._regroup()
        return cut_s, repeated

    def _regroup(self) -> None:
        """What is to be said again is grouped anew: one endpoint acknowledges parts of a turn, another its end."""
        texts = [text for group in self._groups for text in group.texts]
        self._backlog.extendleft(reversed(texts))
        self._backlog_chars += sum(len(text.text) for text in texts)
        self._groups.clear()

    @property
    def repeating(self) -> bool:
        """A group is being said again whose beginning has been heard."""
        return any(group.repeat is not None for group in self._groups)

    def _join(self, group: _Group, seam: Seam | None) -> list[Released]:
        """Go on with a group that is being said again, if it is known where."""
        if group.repeat is None or seam is None:
            return []
        rest = bytes(group.repeat.take.data[seam.at_bytes :])
        group.repeat = None
        self._join_marks(group, self._format.seconds(seam.at_bytes))
        group.received += len(rest)
        return [seam, *(self._release(group, [rest]) if rest else [])]

    def _seam(self, group: _Group, found: Seam | None) -> Seam | None:
        """Where a repeat goes on: by its words where their times are known, else as `found` by its sound."""
        if group.repeat is None or group.heard is None or not group.marks:
            return found
        heard_s, repeated_s = self._format.seconds(group.received), self._format.seconds(len(group.repeat.take.data))
        group.found = found or group.found
        place = resume_at(group.marks, group.repeat_marks, heard_s, told=group.told)
        if place is None:
            return group.found if repeated_s > 2 * heard_s + UNMARKED_S else None
        if place.known is Known.NOTHING and not group.heard.ends_quiet:
            return group.found  # somewhere in a word
        if place.at_s + NEAR_S > repeated_s:
            return None
        at_s = place.at_s if place.known is Known.WORD else place_like(group.heard, group.repeat.take, place.at_s)
        return Seam(self._format.bytes_for(at_s), 0.0, 1.0)

    def _join_marks(self, group: _Group, seam_s: float) -> None:
        """The words heard before the seam, and the repeat's behind it."""
        heard_s = self._format.seconds(group.received)
        group.shift_s = shift_s = heard_s - seam_s
        group.marks = [mark for mark in group.marks if mark.start_s < heard_s]
        after = group.marks[-1].end if group.marks else 0
        behind = [mark for mark in group.repeat_marks if mark.end > after and mark.end_s > seam_s]
        group.marks += [mark._replace(start_s=mark.start_s + shift_s, end_s=mark.end_s + shift_s) for mark in behind]
        group.repeat_marks = []

    def _at_s(self, group: _Group, chars: int) -> float:
        """When what follows after so many characters of a group begins, in the turn's audio."""
        return group.start_s + time_of(group.marks, chars, self.seconds_per_char)

    @property
    def released_s(self) -> float:
        """Seconds of audio given out so far."""
        return self._released / self._bytes_per_second

    def _release(self, group: _Group, chunks: list[bytes]) -> list[Released]:
        """Hand out audio of the head group, with each text announced just before the audio in which it begins."""
        if not chunks:
            return []
        out: list[Released] = []
        if group.announced == 0:
            group.start_s = self.released_s
        if group.heard is None:
            group.heard = Take(self._format, keep_s=EXACT_S)
        for chunk in chunks:
            if self._resume is Resume.SEAM:
                group.heard.feed(chunk)
            out += self._announce(group, self.released_s + self._format.seconds(len(chunk)))
            out.append(chunk)
            self._released += len(chunk)
        return out

    def _announce(self, group: _Group, until_s: float) -> list[Released]:
        sayings: list[Released] = []
        before = sum(len(text.text) for text in group.texts[: group.announced])
        while group.announced < len(group.texts):
            at_s = self._at_s(group, before)
            if at_s >= until_s:
                break
            text = group.texts[group.announced]
            sayings.append(Saying(text.text, text.start, text.end, at_s))
            before += len(text.text)
            group.announced += 1
        return sayings

    def _release_acked(self) -> list[Released]:
        out: list[Released] = []
        while self._groups and self._groups[0].acked:
            group = self._groups.popleft()
            if not group.received:
                group.start_s = self.released_s
            out += self._announce(group, float("inf"))
            self._stretches.append(self._stretch(group))
            if self._groups:
                held, self._groups[0].held = self._groups[0].held, []
                out += self._release(self._groups[0], held)
        return out

    # Afterwards

    def spoken(self, text: str) -> Spoken:
        """What has been released so far, against the model's `text`."""
        stretches = list(self._stretches)
        if self._groups and self._groups[0].announced:
            stretches.append(self._stretch(self._groups[0]))
        return Spoken(text, tuple(stretches), complete=self.complete)

    def _stretch(self, group: _Group) -> Stretch:
        seconds = self._format.seconds(group.received)
        share = seconds / group.chars if group.chars else 0.0
        if not group.acked:  # cut off: as much of it as was likely said
            share = max(share, self.seconds_per_char)
            seconds = max(share * group.chars, group.marks[-1].end_s if group.marks else 0.0)
        sayings, before = [], 0
        for text in group.texts:
            at_s = group.start_s + time_of(group.marks, before, share)
            sayings.append(Saying(text.text, text.start, text.end, at_s))
            before += len(text.text)
        words = tuple(m._replace(start_s=group.start_s + m.start_s, end_s=group.start_s + m.end_s) for m in group.marks)
        pauses = group.heard.envelope.pauses() if group.heard is not None else []
        shifted = tuple((group.start_s + start_s, group.start_s + end_s) for start_s, end_s in pauses)
        return Stretch(group.start_s, group.start_s + seconds, tuple(sayings), shifted, words)


def _first(group: _Group, n: int, chars: int, n_bytes: int) -> _Group:
    """The first texts of a group, which have been spoken, as a group: so many, with so many characters and bytes of audio."""
    marks = [mark for mark in group.marks if mark.end <= chars]
    return _Group(group.texts[:n], chars=chars, acked=True, received=n_bytes, start_s=group.start_s, marks=marks)


def _speakable(text: _Text) -> bool:
    return any(map(str.isalnum, text.text))


def _parts(text: _Text, max_chars: int | None) -> list[_Text]:
    """The text in parts that are not too long, cut at spaces where there are any."""
    if max_chars is None or len(text.text) <= max_chars:
        return [text]
    parts, at, whole = list[_Text](), 0, len(text.text)
    share = (text.end - text.start) / whole
    while at < whole:
        cut = at + max_chars
        if cut < whole:
            cut = text.text.rfind(" ", at, cut) + 1 or cut
        end = text.end if cut >= whole else text.start + round(cut * share)
        parts.append(_Text(text.text[at:cut], text.start + round(at * share), end))
        at = cut
    return parts


def _well_formed(text: str) -> str:
    """Text that can be sent: surrogate pairs joined, lone ones and control characters replaced by a space."""
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\ufffd", " ")
    return "".join(char if char >= " " or char.isspace() else " " for char in text)
