"""How a command runs: its standard streams, its event loop, and what Ctrl+C and SIGTERM do to it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine

from .exits import INTERRUPTED
from .report import Stdout

__all__ = ["keep_standard_streams", "run", "run_server"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def keep_standard_streams() -> None:
    """Keep closed standard streams closed, so that no file gets their numbers: libraries written in C would write to it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if isinstance(out := sys.stdout, io.TextIOWrapper):
        encoding, buffering = out.encoding, out.line_buffering
        # "replace": a terminal without UTF-8.
        sys.stdout = Stdout(out.detach(), encoding=encoding, errors="replace", line_buffering=buffering)


def run(work: Callable[[], Coroutine[object, object, int]], *, takes_interrupt: Callable[[], bool] = lambda: False) -> int:
    """Run a coroutine to its end, or until Ctrl+C or SIGTERM has been dealt with. Return the exit code.

    The first of these signals cancels the coroutine, a second one ends the process at once. `takes_interrupt` is called at each
    Ctrl+C before; when it returns True, the coroutine had a use for it and goes on.
    """
    with asyncio.Runner() as runner:
        return runner.run(_until_interrupted(work, takes_interrupt))


def run_server(work: Callable[[], Coroutine[object, object, int]]) -> int:
    """Run a server's coroutine as `run` does, on uvloop where it is installed. Return 0 when a signal ended it."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        code = runner.run(_until_interrupted(work, lambda: False))
    return 0 if code == INTERRUPTED else code  # a signal is how a server is meant to end


async def _until_interrupted(work: Callable[[], Coroutine[object, object, int]], takes_interrupt: Callable[[], bool]) -> int:
    interrupted = False
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt(number: int) -> None:
        nonlocal interrupted
        if number == signal.SIGINT and takes_interrupt():
            return
        interrupted = True
        task.cancel()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the second may follow at once
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
            atexit.register(signal.signal, number, signal.SIG_IGN)  # a further one would be the exit code
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await work()
    except asyncio.CancelledError:
        if not interrupted:
            raise
        return INTERRUPTED
