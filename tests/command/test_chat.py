"""Conversations with `llm2ws say --chat`, over a pipe and on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm2ws.testing import FaultySpeech
from tests.command.llms import STORY, answer, llm
from tests.sources.replay import End, Reply, replay
from tests.support import MS, run, start

NULL = {"LLM2WS_PLAY__DEVICE": "null"}


async def test_a_conversation_over_a_pipe_remembers(tmp_path: Path) -> None:
    async with replay(answer("My name is Ada."), answer("Ada, as I said.")) as server, FaultySpeech() as speech:
        args = ["say", "Who are you?", "--chat", "--speech", speech.url, "--no-play"]
        env = llm(server, SYSTEM="Be brief.")
        done = await asyncio.to_thread(run, args, cwd=tmp_path, env=env, input="\n  \nPardon?\n")
    assert done.code == 0, done.stderr
    assert " ".join(done.stdout.decode().split()) == "My name is Ada. Ada, as I said."
    assert len(done.stderr.splitlines()) == 1
    assert server.requests[1].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "My name is Ada."},
        {"role": "user", "content": "Pardon?"},
    ]
    assert speech.connections == 1


async def test_a_conversation_in_a_script_ends_with_the_first_failure(tmp_path: Path) -> None:
    async with replay(Reply([], 500)) as server, FaultySpeech() as speech:
        args = ["say", "--chat", "--speech", speech.url, "--no-play"]
        done = await asyncio.to_thread(run, args, cwd=tmp_path, env=llm(server, MAX_RETRIES="0"), input="One?\nTwo?\n")
    assert done.code == 3
    assert len(server.requests) == 1


def test_questions_are_not_read_from_where_an_answer_is(tmp_path: Path) -> None:
    done = run(["say", "-", "--chat"], cwd=tmp_path, input="x")
    assert (done.code, done.stderr) == (
        2,
        "llm2ws: --chat reads your questions from standard input: leave - out, and keep it open\n",
    )


class Terminal:
    """The command on a terminal, as a person sees it."""

    def __init__(self, tmp_path: Path, args: Sequence[str], env: dict[str, str]) -> None:
        self._parent, child = pty.openpty()
        self._process = start(args, cwd=tmp_path, env=NULL | env, stdin=child, stdout=child, stderr=child)
        os.close(child)
        self.shown = ""

    async def until(self, text: str) -> None:
        """Wait until it is shown. What came before is forgotten."""
        while text not in self.shown:
            self.shown += (await asyncio.to_thread(os.read, self._parent, 4_096)).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def type(self, keys: str) -> None:
        os.write(self._parent, keys.encode())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        with contextlib.suppress(OSError):
            while data := await asyncio.to_thread(os.read, self._parent, 4_096):
                self.shown += data.decode(errors="replace")
        os.close(self._parent)
        assert "Traceback" not in self.shown, self.shown
        return await asyncio.to_thread(self._process.wait, 20_000 * MS)


async def test_an_interrupted_answer_is_remembered_as_far_as_it_was_heard(tmp_path: Path) -> None:
    async with replay(answer(*STORY, end=End.HOLD), answer("Yes.")) as server, FaultySpeech() as speech:
        terminal = Terminal(tmp_path, ["say", "--chat", "--speech", speech.url], llm(server))
        await terminal.until("> ")
        terminal.type("A story.\n")
        await terminal.until("lazy dog.")
        terminal.interrupt()
        await server.left.wait()
        await terminal.until("> ")
        terminal.type("Go on?\n")
        await terminal.until("Yes.")
        await terminal.until("> ")
        terminal.type("\x04")
        assert await terminal.end() == 0
    messages: list[dict[str, Any]] = server.requests[1].body["messages"]
    assert [message["role"] for message in messages] in (["user", "assistant", "user"], ["user", "user"])
    heard = messages[1]["content"] if len(messages) == 3 else ""
    assert "".join(STORY).startswith(heard)
    assert "again" not in heard, "that was not heard yet"


async def test_a_failed_answer_does_not_end_a_conversation_on_a_terminal(tmp_path: Path) -> None:
    async with replay(Reply([], 500), answer("Yes.")) as server, FaultySpeech() as speech:
        terminal = Terminal(tmp_path, ["say", "--chat", "--speech", speech.url], llm(server, MAX_RETRIES="0"))
        await terminal.until("> ")
        terminal.type("One?\n")
        await terminal.until("500, an error of the server")
        await terminal.until("> ")
        terminal.type("Two?\n")
        await terminal.until("Yes.")
        await terminal.until("> ")
        terminal.interrupt()
        assert await terminal.end() == 130
