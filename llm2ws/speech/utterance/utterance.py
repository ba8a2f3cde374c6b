"""One turn's speech, whatever connections carry it: what is to be said, what was received of it, what may be released.

The unit is the *group*: the Speaks under one Flush. An endpoint acknowledges groups, audio is released in their order, and a
group whose connection is lost is said again, exactly its Speaks and its Flush.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from ...audio import AudioFormat
from ...text.fragments import Fragment
from ..messages import Word
from .backlog import Backlog
from .groups import Group, Released, Resume
from .heard import Spoken, Stretch
from .seam import EXACT_S, Seam, Take

__all__ = ["GROUP_S", "SECONDS_PER_CHAR", "Utterance"]

SECONDS_PER_CHAR = 0.065  # of English speech, until the voice has shown its own
PACE_CHARS = 100  # after so many, the times of words tell its pace
GROUP_S = 15.0  # of speech: three sentences of a slow voice and their pauses, so that a text read at once needs few Flushes


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
        resume: Resume = Resume.SEAM,
        max_chars: int | None = None,
        group_s: float = GROUP_S,
    ) -> None:
        self.seconds_per_char = SECONDS_PER_CHAR
        self.left_out_chars = 0  # of groups whose rest was given up (Resume.NEXT_GROUP)
        self.unheard_chars = 0  # of groups for which no endpoint had audio
        self.finished = False
        self.said_chars = 0
        self._format = fmt
        self._bytes_per_second, self._sample_bytes = fmt.bytes_per_second, fmt.sample_bytes
        self._resume = resume
        self.group_s = group_s
        self._backlog = Backlog(exact=exact, max_chars=max_chars)
        self._groups: deque[Group] = deque()  # those not acked and fully released, oldest first
        self._stretches: list[Stretch] = []
        self._unheard: list[tuple[int, int]] = []  # spans of the model's text
        self._released = 0  # bytes

    # Text in

    def add(self, fragment: Fragment) -> None:
        """Take a fragment. Nothing of it is lost but what cannot be spoken at the very end."""
        self._backlog.add(fragment)

    def finish(self) -> None:
        """There is no more text."""
        self.finished = True
        group = self._current()
        # While the Flush of a group is still to come, text may join it.
        self._backlog.finish(joinable=group is not None and not group.closed and bool(group.texts))

    # Text out

    def peek(self) -> str | None:
        """Return the next text to send, None when there is none or the group has to be flushed first."""
        group = self._current()
        if group is not None and group.said < len(group.texts):
            return group.texts[group.said].text
        if not self._backlog.texts or (group is not None and (group.closed or self._full(group))):
            return None
        return self._backlog.texts[0].text

    def say(self) -> str:
        """Take the text that `peek` showed: it is being sent."""
        group = self._current()
        if group is None:
            group = Group(self._format)
            self._groups.append(group)
        if group.said == len(group.texts):
            group.add(self._backlog.pop())
        group.said += 1
        text = group.texts[group.said - 1]
        self.said_chars += len(text.text)
        return text.text

    def flush(self) -> None:
        """Close the open group: it is being flushed."""
        group = self._current()
        if group is not None:
            group.closed = group.flushed = True
        if self.finished:
            self._backlog.drop_unspeakable()  # marks that came too late for this group

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
        return self._backlog.chars

    @property
    def unspeakable_chars(self) -> int:
        """Characters of texts without a letter or digit, and with no neighbour to go with: never sent."""
        return self._backlog.left_out_chars

    @property
    def all_said(self) -> bool:
        """There is no more text, and all of it has been sent (not necessarily flushed)."""
        if not self.finished or self._backlog.texts:
            return False
        return all(group.said == len(group.texts) for group in self._groups)  # several may have to be said again

    @property
    def complete(self) -> bool:
        """All text has been spoken and all its audio released."""
        return self.finished and not self._backlog.texts and not self._groups

    @property
    def outstanding_s(self) -> float:
        """Seconds of audio that were asked for and have not come, as far as one can tell."""
        seconds = 0.0
        for group in self._groups:
            if not group.acked:
                seconds += max(0.0, group.said_chars * self.seconds_per_char - group.received / self._bytes_per_second)
        return seconds

    def _current(self) -> Group | None:
        """Return the group that is being said: the oldest one not flushed."""
        for group in self._groups:
            if not group.flushed:
                return group
        return None

    def _full(self, group: Group) -> bool:
        """Whether the next text would make it too long. A single text may be longer: it is not cut here."""
        if not self._backlog.texts or not group.texts:
            return False
        return (group.chars + len(self._backlog.texts[0].text)) * self.seconds_per_char > self.group_s

    # Audio in

    def received(self, data: bytes) -> list[Released]:
        """Audio came: it is of the oldest group. Gives what may be handed out now."""
        group = self._speaking()
        if group is None:
            return []
        if group.odd or len(data) % self._sample_bytes:  # Half a sample waits for its other half.
            data = group.odd + data
            whole = len(data) - len(data) % self._sample_bytes
            data, group.odd = data[:whole], data[whole:]
        if not data:
            return []
        if group.repeat is not None:
            return self._join(group, group.seam(group.repeat.feed(data)))
        group.received += len(data)
        if group is not self._groups[0]:
            group.held.append(data)
            return []
        return self._release(group, [data])

    def timed(self, words: Iterable[Word], *, from_here: bool = False) -> list[Released]:
        """When words are spoken, of what `received` takes: counted from the start of the endpoint's context, or `from_here`.

        Gives what may be handed out now.
        """
        group = self._speaking()
        if group is None:
            return []
        group.timed(words, from_here=from_here)
        if group.repeat is not None:
            return self._join(group, group.seam(None))
        if group.marks and group.marks[-1].end >= PACE_CHARS:
            self.seconds_per_char = group.marks[-1].end_s / group.marks[-1].end
        return []

    def acked(self) -> list[Released]:
        """All audio of the oldest flushed group has come. Gives what may be handed out now."""
        group = next((g for g in self._groups if g.flushed and not g.acked), None)
        if group is None:
            return []
        if group.lacks_audio:
            group.silent += 1
            return []
        joined = [] if group.repeat is None else self._join(group, group.repeat.finish())
        group.acked = True
        if group.received:
            # A long group tells more than a short one.
            weight = min(0.5, group.chars / 400)
            self.seconds_per_char += weight * (group.received_s / group.chars - self.seconds_per_char)
        return joined + self._release_acked()

    def ended(self) -> list[Released]:
        """Take note that the endpoint has spoken all that it was given, with no ack for each group."""
        joined: list[Released] = []
        for group in self._groups:
            if group.said == len(group.texts):
                if not group.acked and group.lacks_audio:
                    group.silent += 1
                    break  # What comes behind it waits for it.
                if group.repeat is not None:
                    joined += self._join(group, group.repeat.finish())
                group.settle()
        return joined + self._release_acked()

    @property
    def silences(self) -> int:
        """How often the oldest group was acknowledged without any audio for its text: an ack alone is no success."""
        return self._groups[0].silent if self._groups else 0

    def give_up_silent(self) -> tuple[int, list[Released]]:
        """Go on without the oldest group, for which no audio comes: it counts as unheard.

        Return its length in characters, and what may be handed out now.
        """
        group = self._groups[0]
        group.unheard = True
        group.settle()
        self.unheard_chars += group.chars
        return group.chars, self._release_acked()

    def refused(self) -> None:
        """Have the text of the newest Flush, which was not carried out, join the next group."""
        groups = [g for g in self._groups if g.flushed and not g.acked]
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

    def _speaking(self) -> Group | None:
        """Return the group of which audio comes now: the oldest one."""
        return next((group for group in self._groups if not group.acked), None)

    # Said again

    def lost(self) -> bool:
        """Have what a lost connection had not finished said again, exactly its Speaks and its Flush.

        False when a part of a group has been handed out and `Resume.FAIL` forbids to go on from there.
        """
        unfinished = [group for group in self._groups if not group.acked]
        for group in unfinished:
            if (heard := group.split_heard()) is not None:
                self._stretches.append(heard.stretch(self.seconds_per_char))
            if group.acked:  # all of it was heard
                continue
            if group.heard is None or self._resume is Resume.SEAM:
                group.say_again()
            elif self._resume is Resume.FAIL:
                return False
            else:
                self.left_out_chars += max(0, group.chars - round(group.received_s / self.seconds_per_char))
                del group.texts[group.announced :]  # not said, as far as one can tell
                group.settle()
        self._release_acked()
        return True

    def restart(self, handed_s: float) -> tuple[float, int]:
        """Another voice goes on, from the start of the text that was being heard.

        `handed_s`: how much audio has left for the listener. Gives up to where released audio stays valid, in seconds, and how
        many characters are heard again.
        """
        group = self._groups[0] if self._groups else None
        if group is None or not group.announced:
            self._regroup()
            return self.released_s, 0
        whole = group.texts[: group.announced - 1]  # were heard
        begins_s = min(group.at_s(sum(len(text.text) for text in whole), self.seconds_per_char), self.released_s)
        cut_s = max(handed_s, begins_s)
        repeated = len(group.texts[group.announced - 1].text) if handed_s > begins_s else 0
        if whole:
            heard = group.take_off(len(whole), begins_s - group.start_s)
            self._stretches.append(heard.stretch(self.seconds_per_char))
        self._released = self._format.bytes_for(cut_s)
        self._regroup()
        return cut_s, repeated

    def _regroup(self) -> None:
        """Group anew what is to be said again: one endpoint acknowledges parts of a turn, another its end."""
        self._backlog.put_back(text for group in self._groups for text in group.texts)
        self._groups.clear()

    @property
    def repeating(self) -> bool:
        """A group is being said again whose beginning has been heard."""
        return any(group.repeat is not None for group in self._groups)

    def _join(self, group: Group, seam: Seam | None) -> list[Released]:
        """Go on with a group that is being said again, if it is known where."""
        if seam is None:
            return []
        rest = group.join(seam)
        return [seam, *self._release(group, [rest] if rest else [])]

    # Audio out

    @property
    def released_s(self) -> float:
        """Seconds of audio given out so far."""
        return self._released / self._bytes_per_second

    def _release(self, group: Group, chunks: list[bytes]) -> list[Released]:
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
            self._released += len(chunk)
            until_s = self._released / self._bytes_per_second
            if group.next_at_s < until_s and group.announced < len(group.texts):
                out += group.announce(until_s, self.seconds_per_char)
            out.append(chunk)
        return out

    def _release_acked(self) -> list[Released]:
        out: list[Released] = []
        while self._groups and self._groups[0].acked:
            group = self._groups.popleft()
            if group.unheard:
                self._unheard.append((group.texts[0].start, group.texts[-1].end))
                continue
            if not group.received:
                group.start_s = self.released_s
            out += group.announce(math.inf, self.seconds_per_char)
            self._stretches.append(group.stretch(self.seconds_per_char))
            if self._groups:
                held, self._groups[0].held = self._groups[0].held, []
                out += self._release(self._groups[0], held)
        return out

    # Afterwards

    def spoken(self, text: str) -> Spoken:
        """Return what has been released so far, against the model's `text`."""
        stretches = list(self._stretches)
        if self._groups and self._groups[0].announced:
            stretches.append(self._groups[0].stretch(self.seconds_per_char))
        complete = self.complete and not self._unheard
        return Spoken(text, tuple(stretches), complete, tuple(self._unheard))
