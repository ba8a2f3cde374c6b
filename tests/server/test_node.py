"""Snippets that people copy from OpenAI's documentation, in Node, with its own client: only address, key and model differ."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from llm2ws.audio import AudioFormat
from llm2ws.server.encode import encoder
from llm2ws.settings.fields import Key, Secret, Server
from llm2ws.testing import decode
from tests.server.conftest import Running, Start
from tests.server.test_chat import TEXT
from tests.sources.replay import Reply, json_reply
from tests.support import ROOT, assert_no_canary

pytestmark = pytest.mark.node

CHAT = """
import OpenAI from "openai";

const openai = new OpenAI();

async function main() {
  const completion = await openai.chat.completions.create({
    model: "scripted",
    messages: [
      { role: "developer", content: "You are a helpful assistant." },
      { role: "user", content: "Hello!" },
    ],
    stream: true,
  });

  for await (const chunk of completion) {
    process.stdout.write(chunk.choices[0]?.delta?.content || "");
  }
}

main();
"""

SPEECH = """
import fs from "fs";
import path from "path";
import OpenAI from "openai";

const openai = new OpenAI();
const speechFile = path.resolve("./speech.mp3");

const mp3 = await openai.audio.speech.create({
  model: "gpt-4o-mini-tts",
  voice: "coral",
  input: "Today is a wonderful day to build something people love!",
  instructions: "Speak in a cheerful and positive tone.",
});

const buffer = Buffer.from(await mp3.arrayBuffer());
await fs.promises.writeFile(speechFile, buffer);
"""

AUDIO = """
import { writeFileSync } from "node:fs";
import OpenAI from "openai";

const openai = new OpenAI();

const response = await openai.chat.completions.create({
  model: "scripted",
  modalities: ["text", "audio"],
  audio: { voice: "alloy", format: "wav" },
  messages: [
    {
      role: "user",
      content: "Is a golden retriever a good family dog?"
    }
  ],
  store: true,
});

console.log(response.choices[0].message.audio.transcript);

writeFileSync(
  "dog.wav",
  Buffer.from(response.choices[0].message.audio.data, 'base64'),
  { encoding: "utf-8" }
);
"""

AUDIO_STREAM = """
import OpenAI from "openai";

const openai = new OpenAI();
const stream = await openai.chat.completions.create({
  model: "scripted",
  modalities: ["text", "audio"],
  audio: { voice: "alloy", format: "pcm16" },
  messages: [{ role: "user", content: "Hello!" }],
  stream: true,
});
for await (const chunk of stream) {
  const audio = chunk.choices[0]?.delta?.audio;
  if (audio?.data) process.stdout.write(Buffer.from(audio.data, "base64"));
}
"""

ERRORS = """
import OpenAI from "openai";

const openai = new OpenAI();
try {
  await openai.chat.completions.create({ model: "none", messages: [{ role: "user", content: "Hello!" }] });
} catch (err) {
  if (err instanceof OpenAI.APIError) console.log(err.status, err.constructor.name, err.code, err.requestID !== undefined);
  else throw err;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the client is installed."""
    made = tmp_path_factory.mktemp("openai")
    shutil.copytree(ROOT / "tests" / "data" / "openai", made, dirs_exist_ok=True)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(npm, cwd=made, check=True, timeout=60)
    return made


async def run(folder: Path, daemon: Running, key: str, script: str) -> bytes:
    """What it writes."""
    (folder / "snippet.mjs").write_text(script)
    env = {"PATH": os.environ["PATH"], "OPENAI_BASE_URL": f"{daemon.url}/v1", "OPENAI_API_KEY": key}
    process = await asyncio.create_subprocess_exec(
        "node", "snippet.mjs", cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    assert_no_canary(stdout + stderr, "what it wrote")
    assert (process.returncode, stderr) == (0, b"")
    return stdout


@pytest.fixture
def keyed(canary: Callable[[], str]) -> tuple[str, Server]:
    key = canary()
    return key, Server(keys=(Key(name="node", key=Secret(key)),))


async def test_chat(start: Start, folder: Path, keyed: tuple[str, Server]) -> None:
    key, server = keyed
    async with start(TEXT, server=server) as daemon:
        assert (await run(folder, daemon, key, CHAT)).decode() == TEXT
        assert [message["role"] for message in daemon.llm.requests[0].body["messages"]] == ["developer", "user"]


async def test_speech(start: Start, folder: Path, keyed: tuple[str, Server]) -> None:
    key, server = keyed
    async with start(server=server) as daemon:
        await run(folder, daemon, key, SPEECH)
        mp3 = (folder / "speech.mp3").read_bytes()
        said = {"input": "Today is a wonderful day to build something people love!", "response_format": "pcm"}
        async with daemon.http.post("/v1/audio/speech", json=said, headers={"Authorization": f"Bearer {key}"}) as answer:
            pcm = await answer.read()
    assert decode(pcm) == said["input"]
    encode = encoder("mp3", AudioFormat())
    assert mp3 == encode.feed(pcm) + encode.finish()


async def test_chat_with_audio(start: Start, folder: Path, keyed: tuple[str, Server]) -> None:
    key, server = keyed
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice]}
    replies: list[str | Reply] = [json_reply(200, whole), TEXT]
    async with start(*replies, server=server) as daemon:
        assert (await run(folder, daemon, key, AUDIO)).decode() == f"{TEXT}\n"
        with wave.open(io.BytesIO((folder / "dog.wav").read_bytes())) as wav:
            assert decode(wav.readframes(wav.getnframes())) == TEXT
        assert decode(await run(folder, daemon, key, AUDIO_STREAM)) == TEXT


async def test_errors(start: Start, folder: Path, keyed: tuple[str, Server]) -> None:
    key, server = keyed
    async with start(server=server) as daemon:
        assert await run(folder, daemon, key, ERRORS) == b"404 NotFoundError model_not_found true\n"
        assert await run(folder, daemon, "wrong", ERRORS) == b"401 AuthenticationError invalid_api_key true\n"
