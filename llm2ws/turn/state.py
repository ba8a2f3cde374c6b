"""The state of one turn, which its parts share: the only owner of it."""

from __future__ import annotations

import asyncio

from ..speech.utterance.heard import Spoken
from ..speech.utterance.pacing import Pacing
from ..speech.utterance.utterance import Utterance
from ..text.fragments import Fragment, Policy
from .events import TurnStats
from .options import TurnOptions
from .outbox import Outbox

__all__ = ["BACKLOG_CHARS", "TurnState"]

BACKLOG_CHARS = 20_000  # text read and not sent: beyond it the source is not read


class TurnState:
    """What is known of one turn. The feeder fills `utterance` with text, the speaker empties it, both fill `out`."""

    def __init__(self, options: TurnOptions) -> None:
        self.options = options
        self.stats = TurnStats()
        self.utterance = Utterance(
            options.format, exact=options.policy is Policy.TOKEN, resume=options.resume, max_chars=options.max_chars
        )
        self.pacing = Pacing(options.pace, ahead_s=options.ahead_s)
        self.fragmenter = options.fragmenter(options.policy)
        self.out = Outbox(options.format, self.stats, self.since_start)
        self.text: list[str] = []  # the model's text, as far as it has come
        self.wants_clause = False  # the listener is about to hear silence: a clause is better than a sentence
        self.room = asyncio.Event()  # set when the source may be read on
        self.started_at = 0.0  # monotonic seconds

    def since_start(self) -> float:
        """Return the seconds since the turn was started."""
        return asyncio.get_running_loop().time() - self.started_at

    def add(self, fragments: list[Fragment]) -> None:
        """Take text that is to be spoken."""
        for fragment in fragments:
            self.utterance.add(fragment)
        if fragments:
            if self.stats.first_fragment_s is None:
                self.stats.first_fragment_s = self.since_start()
            self.stats.fragments += len(fragments)

    def cut_clause(self) -> bool:
        """Take text up to the last clause end, rather than wait for the sentence. Return whether there was any."""
        if self.options.policy is not Policy.CLAUSE_FIRST or self.utterance.backlog_chars:
            return False
        fragments = self.fragmenter.release(clause=True)
        self.add(fragments)
        return bool(fragments)

    def make_room(self) -> None:
        """Let the source be read on if not too much of its text waits to be sent."""
        if self.utterance.backlog_chars <= BACKLOG_CHARS:
            self.room.set()

    @property
    def spoken(self) -> Spoken:
        """What has been spoken so far. The value stays as it is when the turn goes on."""
        return self.utterance.spoken("".join(self.text))
