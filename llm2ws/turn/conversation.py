"""Turns that are spoken one after another over the same endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Hashable, Sequence
from dataclasses import replace

from ..audio import AudioFormat
from ..errors import ConfigError, ConnectFailed, LocalProtocolError
from ..links.endpoint import Endpoint
from ..speech.utterance.groups import Resume
from ..speech.utterance.pacing import AHEAD_S, Pace
from ..text.cleaner import Cleaner
from ..text.fragmenter import Fragmenter
from ..text.fragments import Policy
from .events import Done
from .feeder import Source
from .options import SlotPool, TurnOptions
from .turn import Turn

__all__ = ["SLOW_CONSUMER_S", "TOKEN_S", "Conversation"]

SLOW_CONSUMER_S = 60.0  # How long audio may wait for whoever takes it.
TOKEN_S = 300.0  # How long a source may be silent; after that it is dead and does not just pause.
_SOURCES = "give from_text(...) for a text, from_iterable(...) for other iterables, else an async generator, called"


class Conversation:
    """Turns that are spoken one after another over the same endpoint.

    A turn that is started while another is still speaking is read and cut ahead, and spoken after it.

    `endpoints`: the first that can be had is used, so the others stand in for it. `policy`: None for the endpoints' own.
    `pace`: who takes the audio. `resume`: what becomes of a text whose connection breaks. `spill`: whether a second connection
    takes over while a limit on characters or flushes holds the first one back. `ahead_s`: of speech, asked for before it is
    heard, at most. `slow_consumer_s`: after so long without anybody taking the audio a turn ends with SlowConsumerError.
    `token_s`: after so long without a word from it, a source has failed. `on_done` is called with the outcome of each turn,
    once, when the turn has been left. `client`: whom turns are for, so that clients share scarce connections evenly;
    None for nobody's.
    """

    def __init__(
        self,
        pool: SlotPool,
        endpoints: Sequence[Endpoint],
        *,
        policy: Policy | None = None,
        pace: Pace = Pace.NONE,
        cleaner: Callable[[], Cleaner] = Cleaner,
        fragmenter: Callable[[Policy], Fragmenter] = Fragmenter,
        resume: Resume = Resume.SEAM,
        spill: bool = False,
        ahead_s: float = AHEAD_S,
        slow_consumer_s: float = SLOW_CONSUMER_S,
        token_s: float = TOKEN_S,
        on_done: Callable[[Done], None] | None = None,
        client: Hashable = None,
    ) -> None:
        self._pool = pool
        first = endpoints[0].dialect
        for other in endpoints[1:]:
            if other.dialect.format != first.format:
                what = f"{other.dialect.name} would give {other.dialect.format}, {first.name} {first.format}"
                raise ConfigError(what, hint="endpoints that stand in for each other need one format")
        self._options = TurnOptions(
            tuple(endpoints),
            # Of several, that of the one that wants the longest pieces: half a word is no beginning for it when it takes over.
            policy or max((endpoint.dialect.policy for endpoint in endpoints), key=list(Policy).index),
            pace,
            cleaner,
            fragmenter,
            resume,
            spill,
            ahead_s,
            slow_consumer_s,
            token_s,
            on_done,
            client,
        )

    @property
    def format(self) -> AudioFormat:
        """The format of the audio of all turns."""
        return self._options.format

    async def warm(self) -> None:
        """Open a connection before the first turn needs it, if none is open. Raises ConnectFailed when none can be had."""
        *others, last = self._options.endpoints
        for endpoint in others:
            try:
                await self._pool.warm(endpoint)
            except ConnectFailed:
                continue
            return
        await self._pool.warm(last)

    def turn(self, source: Source, *, pace: Pace | None = None, on_done: Callable[[Done], None] | None = None) -> Turn:
        """Return a turn that speaks what `source` gives: any async iterator of text, such as a generator of your own.

        `pace`: who takes the audio, `on_done`: who is called at its end, if not as usual in this conversation. Raises
        LocalProtocolError for what is no source.
        """
        if not isinstance(source, AsyncIterable):
            raise LocalProtocolError(f"a {type(source).__name__} is no source", hint=_SOURCES)
        options = replace(self._options, pace=pace or self._options.pace, on_done=on_done or self._options.on_done)
        return Turn(self._pool, options, source)
