"""Every recipe is run as it is written, but for the LLM's address, the speech endpoint and the loudspeaker."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import aiohttp
from msgspec.structs import replace

from llm2ws.server.run import running
from llm2ws.settings import loading as config
from llm2ws.settings.fields import Speech
from llm2ws.testing import FaultySpeech
from tests.server.conftest import CODING, says
from tests.sources.replay import replay
from tests.support import MS, ROOT, child_environment, run

TEXT = (ROOT / "docs" / "recipes.md").read_text()
RECIPES = dict(re.findall(r"^## (.*?)\n.*?^```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
OLLAMA = "http://127.0.0.1:11434"


def test_each_is_short() -> None:
    assert len(RECIPES) == TEXT.count("\n## ") == 5
    for name, block in RECIPES.items():
        assert len([line for line in block.splitlines() if line.strip()]) <= 15, name
        assert max(map(len, block.splitlines())) <= 128, name


async def ran(name: str, tmp_path: Path, llm: str, speech: str, said: str) -> str:
    """What a recipe in Python writes to standard output."""
    block = RECIPES[name].replace(OLLAMA, llm).replace("connect(", f"connect({speech!r}")
    block = block.replace("Player(speech.format", "Player(speech.format, device='null'")
    command = [sys.executable, "-P", "-W", "error", "-c", block]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=tmp_path,
        env=child_environment(),
        input=said.encode(),
        capture_output=True,
        timeout=30_000 * MS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return done.stdout.decode()


def spoken(speech: FaultySpeech) -> str:
    return " ".join("".join(speech.texts()).split())


async def test_a_coding_assistant_shows_the_code_and_does_not_speak_it(tmp_path: Path) -> None:
    answer = "Here it is:\n\n```python\nprint(sum(range(10)))\n```\n\nIt adds the numbers. The last is nine."
    async with replay(says(answer)) as llm, FaultySpeech(coding=CODING) as speech:
        shown = await ran("A coding assistant", tmp_path, llm.url, speech.url, "Add up to nine.\n")

    assert shown == f"> {answer}\n"
    assert spoken(speech) == "Here it is: The code is on your screen. It adds the numbers. The last is nine."
    assert llm.requests[0].body["messages"][-1] == {"role": "user", "content": "Add up to nine."}


async def test_a_story_goes_on_with_what_is_chosen(tmp_path: Path) -> None:
    parts = ["A fox finds a door. Does she open it, or wait?", "She opens it. The end."]
    async with replay(*map(says, parts)) as llm, FaultySpeech(coding=CODING) as speech:
        shown = await ran("An interactive story", tmp_path, llm.url, speech.url, "A fox.\nShe opens it.\n\n")

    assert shown == "What is it about? > > "
    assert spoken(speech) == " ".join(parts)
    assert [message["content"] for message in llm.requests[1].body["messages"][1:]] == ["A fox.", parts[0], "She opens it."]
    assert speech.connections == 1


async def test_lines_are_translated_one_after_another(tmp_path: Path) -> None:
    async with replay(says("Good morning."), says("It is raining today")) as llm, FaultySpeech(coding=CODING) as speech:
        await ran("Live translation", tmp_path, llm.url, speech.url, "Guten Morgen.\nHeute regnet es\n")

    assert spoken(speech) == "Good morning. It is raining today"
    assert [request.body["messages"][-1]["content"] for request in llm.requests] == ["Guten Morgen.", "Heute regnet es"]


async def test_a_support_bot_answers_on_the_daemons_faces(tmp_path: Path) -> None:
    async with replay(says("Spoke & Co. opens at 9. Come by!")) as llm, FaultySpeech(coding=CODING) as speech:
        (tmp_path / "support.toml").write_text(RECIPES["A support bot"].replace(OLLAMA, llm.url))
        settings = config.load(config=str(tmp_path / "support.toml"), environ={}).settings
        settings = replace(
            settings, speech={"it": Speech(url=speech.url)}, server=replace(settings.server, listen="127.0.0.1:0")
        )
        async with running(settings) as daemon, aiohttp.ClientSession() as http:
            async with http.post(f"{daemon.url}/chat?audio=1", json={"prompt": "When do you open?"}) as response:
                assert "event: done" in await response.text()

    assert spoken(speech) == "Spoke & Company opens at 9. Come by!"
    asked = llm.requests[0].body
    assert asked["messages"][0]["content"].startswith("You answer customers of Spoke & Co. aloud")
    assert (asked["temperature"], asked["max_tokens"]) == (0.2, 150)


async def test_a_tutor_speaks_and_listens(tmp_path: Path) -> None:
    async with replay(says("Bonjour. What is that?"), says("Right.")) as llm:
        (tmp_path / "tutor.toml").write_text(RECIPES["A tutor"].replace(OLLAMA, llm.url))
        args = ["say", "--chat", "--config", "tutor.toml", "I am ready.", "-o", "lesson.wav"]
        done = await asyncio.to_thread(run, args, cwd=tmp_path, input="Hello\n")

    assert done.code == 0, done.stderr
    assert " ".join(done.stdout.decode().split()) == "Bonjour. What is that? Right."
    contents = [message["content"] for message in llm.requests[1].body["messages"][1:]]
    assert contents == ["I am ready.", "Bonjour. What is that?", "Hello"]
