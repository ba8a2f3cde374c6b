from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import espeakng_loader
import pytest

from llm2ws.audio import AudioFormat, Encoding, alaw, mulaw
from llm2ws.errors import ConfigError, LocalProtocolError, SpeechError
from llm2ws.localspeech import engine as engine_module
from llm2ws.localspeech.engine import AudioStream, Engine, UnspeakableText
from llm2ws.localspeech.voices import EspeakVoice
from tests.support import ROOT, child_environment

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLAIN = AudioFormat(Encoding.LINEAR16, 24000)
ENGLISH = EspeakVoice("gmw/en-US")
STORY = (
    "The quick brown fox, which was rather tired, jumped over Dr. Smith's lazy dog. It cost $3.50! Did it? Yes; of course:"
    " see https://a.example/b?c=d.\n\nA new paragraph has three words, or more, and 1,234 numbers. "
)

# The whole text in one piece, straight from the library; prints its length in samples.
REFERENCE = """
import ctypes, os, sys, espeakng_loader
library = ctypes.CDLL(espeakng_loader.get_library_path())
os.chdir(os.path.dirname(espeakng_loader.get_data_path()))
assert library.espeak_Initialize(2, 200, b".", 0x8000) == 22050
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
heard = 0
def take(wave, n, events):
    global heard
    heard += n if wave else 0
    return 0
callback = Callback(take)
library.espeak_SetSynthCallback(callback)
library.espeak_SetVoiceByName(b"gmw/en-US")
text = sys.stdin.buffer.read()
library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, 1, None, None)
print(heard)
"""


async def heard(utterance: AudioStream) -> bytes:
    with utterance:
        return b"".join([chunk async for chunk in utterance])


SENTENCES = (
    "The train leaves at ten.",
    "Bring a warm coat for the evening, and a hat!",
    "Is it far from here to the old town?",
    "He said: “We meet at the gate.”",
    "(Soup is at seven.)",
    "She asked, 'Why?'",
    "Dr. Smith paid $3.50 for it.",
    "Wait…",
    "It has many parts, of which each is spoken one after another, so that it takes longer than the engine speaks in one go.",
)


def pauses(pcm: bytes) -> list[tuple[float, float]]:
    """Where PLAIN audio is quiet for 0.2 s or more: from and to, in seconds. A comma's pause is shorter."""
    samples, step = array.array("h", pcm), PLAIN.sample_rate_hz // 100
    loud = [max(map(abs, samples[at : at + step])) >= 60 for at in range(0, len(samples), step)]
    found, begin = [], 0
    for at, is_loud in enumerate([*loud, True]):
        if is_loud:
            if at - begin >= 20:
                found.append((begin / 100, at / 100))
            begin = at + 1
    return found


def loudness_dbfs(pcm: bytes) -> float:
    samples = array.array("h", pcm)
    return 20 * math.log10(math.sqrt(sum(s * s for s in samples) / len(samples)) / 32768)


@pytest.mark.parametrize("length", [20, 200, 2000])
async def test_a_text_lasts_as_long_as_in_one_piece(engine: Engine, length: int) -> None:
    text = (STORY * 12)[:length]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REFERENCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    # The library would add 0.2 s for a blank line behind a sentence.
    out, _ = await process.communicate(text.replace("\n\n", "\n").encode())
    reference_s = int(out) / 22050
    pcm = await heard(engine.say(text, voice=ENGLISH, fmt=PLAIN))
    assert PLAIN.seconds(len(pcm)) == pytest.approx(reference_s, rel=0.01)


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n"])
async def test_a_pause_follows_each_sentence_and_the_next_word_is_told_at_its_end(engine: Engine, separator: str) -> None:
    text = separator.join(SENTENCES)
    utterance = engine.say(text, voice=ENGLISH, fmt=PLAIN)
    found = [pause for pause in pauses(await heard(utterance)) if pause[0] > 0]
    begins = [sum(len(sentence) + len(separator) for sentence in SENTENCES[:n]) for n in range(1, len(SENTENCES))]
    firsts = [next(word.at_s for word in utterance.words if word.start >= begin) for begin in begins]
    within = found.pop(3)  # that of the colon
    assert len(found) == len(SENTENCES)
    assert all(0.2 <= end - begin <= 0.5 for begin, end in [*found, within])
    assert firsts == pytest.approx([end for _, end in found[:-1]], abs=0.05)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("en-us", "Supper is at seven."),
        ("en-us", "Supper is at seven. \n\n"),
        ("en-us", "“Supper is at seven.” "),
        ("en-us", "Seven?!"),
        ("cmn", "你好。"),
        ("hi", "मैं हूँ।"),
        ("ar", "كيف حالك؟"),
        ("el", "Τι κάνεις;"),
        ("fr", "« Oui. »"),
        ("hy", "Բարեւ։"),
    ],
)
async def test_a_text_that_ends_with_a_sentence_ends_with_its_pause(engine: Engine, model: str, text: str) -> None:
    voice = engine.voice(model)
    assert voice is not None
    pcm = await heard(engine.say(text, voice=voice, fmt=PLAIN))
    [(begin, end)] = pauses(pcm)
    assert 0.2 <= end - begin <= 0.5
    assert end == pytest.approx(PLAIN.seconds(len(pcm)), abs=0.01)


@pytest.mark.parametrize(
    "text", ["The train", "The train leaves at ten, ", "He saw this: ", "He saw this; ", "The train – ", "Dr."]
)
async def test_a_text_that_ends_within_a_sentence_ends_without_a_pause(engine: Engine, text: str) -> None:
    assert pauses(await heard(engine.say(text, voice=ENGLISH, fmt=PLAIN))) == []


async def test_a_long_text_keeps_all_its_words(engine: Engine) -> None:
    text = " ".join(f"number {n}," if n % 7 else f"number {n}." for n in range(300))
    utterance = engine.say(text, voice=ENGLISH, fmt=PLAIN)
    pcm = await heard(utterance)
    said = {text[word.start : word.start + word.length] for word in utterance.words}
    assert {str(n) for n in range(300)} <= {word.strip(",.") for word in said}
    times = [word.at_s for word in utterance.words]
    assert times == sorted(times)
    assert times[-1] < PLAIN.seconds(len(pcm))


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 32000, 48000])
async def test_every_rate_gives_the_same_seconds(engine: Engine, rate: int) -> None:
    fmt = AudioFormat(Encoding.LINEAR16, rate)
    at_rate = await heard(engine.say("One, two, three. Four!", voice=ENGLISH, fmt=fmt))
    plain = await heard(engine.say("One, two, three. Four!", voice=ENGLISH, fmt=PLAIN))
    assert fmt.seconds(len(at_rate)) == pytest.approx(PLAIN.seconds(len(plain)), rel=0.01)
    assert -30 < loudness_dbfs(at_rate) < -12


@pytest.mark.parametrize(("encoding", "encode"), [(Encoding.MULAW, mulaw), (Encoding.ALAW, alaw)])
async def test_g711_is_the_same_speech(encoding: Encoding, encode: Callable[[bytes], bytes]) -> None:
    # The library's noise runs on from text to text, so only the first text of two processes is the same.
    spoken = []
    for fmt in (AudioFormat(Encoding.LINEAR16, 8000), AudioFormat(encoding, 8000)):
        async with Engine() as engine:
            spoken.append(await heard(engine.say("The same, both times.", voice=ENGLISH, fmt=fmt)))
    assert encode(spoken[0]) == spoken[1]


@pytest.mark.parametrize("model", ["aura-2-thalia-en", "aura-asteria-en", "aura-2-zeus-en", "de", "fr", "en-us+whisper"])
async def test_voices_are_neither_faint_nor_too_loud(engine: Engine, model: str) -> None:
    voice = engine.voice(model)
    assert voice is not None
    pcm = await heard(engine.say("Eleven birds sat on a wall, and sang.", voice=voice, fmt=PLAIN))
    assert -30 < loudness_dbfs(pcm) < -12


async def test_speed_shortens_and_lengthens(engine: Engine) -> None:
    lengths = [len(await heard(engine.say(STORY, voice=ENGLISH, fmt=PLAIN, speed=speed))) for speed in (0.7, 1.0, 1.5)]
    assert lengths[0] / lengths[1] == pytest.approx(1 / 0.7, rel=0.15)
    assert lengths[2] / lengths[1] == pytest.approx(1 / 1.5, rel=0.15)


@pytest.mark.parametrize(
    "text", ["", " ", ".", " … ", "\n\n", "\0", "\ud800", "- - -", "...\n\n" * 9, "( ) ( )", "!", "?!", "; :"]
)
async def test_a_text_without_a_word_has_no_audio(engine: Engine, text: str) -> None:
    assert await heard(engine.say(text, voice=ENGLISH, fmt=PLAIN)) == b""


@pytest.mark.parametrize("text", ["a", "%", "7", "before\0after", "half \ud83d of a pair", "😀"])
async def test_whatever_can_be_read_out_is(engine: Engine, text: str) -> None:
    assert PLAIN.seconds(len(await heard(engine.say(text, voice=ENGLISH, fmt=PLAIN)))) > 0.2


async def test_markup_is_text(engine: Engine) -> None:
    utterance = engine.say('<speak><break time="9s"/>hi</speak> [[h@l\'oU]]', voice=ENGLISH, fmt=PLAIN)
    await heard(utterance)
    assert len(utterance.words) >= 5


async def test_five_hundred_random_texts(engine: Engine) -> None:
    dice = random.Random(20)
    ranges = [(32, 127), (0xA0, 0x250), (0x370, 0x700), (0x3040, 0x3100), (0x4E00, 0x4F00), (0x1F300, 0x1F600), (0, 0xFFFF)]

    def text() -> str:
        spans = [dice.choice(ranges) for _ in range(dice.randrange(1, 9))]
        return "".join(dice.choice([chr(dice.randrange(*span)), " ", ", "]) for span in spans)

    pid = engine.pid
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(heard(engine.say(text(), voice=ENGLISH, fmt=AudioFormat(Encoding.LINEAR16, 8000))))
            for _ in range(500)
        ]
    assert sum(len(task.result()) > 0 for task in tasks) > 300
    assert engine.pid == pid


@pytest.mark.parametrize("unit", ["I.", "é.", "漢.", "x.y", ".", "9", "e\u0301.", "\n"])
async def test_a_text_that_repeats_itself_without_end(engine: Engine, unit: str) -> None:
    pid = engine.pid
    with engine.say(unit * 1000, voice=ENGLISH, fmt=AudioFormat(Encoding.LINEAR16, 8000)) as utterance:
        with contextlib.suppress(StopAsyncIteration):
            for _ in range(10):
                await anext(utterance)
    assert await heard(engine.say("Still there.", voice=ENGLISH, fmt=PLAIN))
    assert engine.pid == pid


async def test_a_text_may_be_dropped_at_any_moment(engine: Engine) -> None:
    pid = engine.pid
    for n in range(300):
        with engine.say("Short.", voice=ENGLISH, fmt=PLAIN) as utterance:
            with contextlib.suppress(StopAsyncIteration):
                for _ in range(n % 7):
                    await anext(utterance)
    assert await heard(engine.say("Still there.", voice=ENGLISH, fmt=PLAIN))
    assert engine.pid == pid


async def test_cancel_in_mid_word_leaves_the_engine_free(engine: Engine) -> None:
    utterance = engine.say("Supercalifragilisticexpialidocious " * 500, voice=ENGLISH, fmt=PLAIN)
    first = await anext(utterance)
    utterance.cancel()
    utterance.cancel()
    assert [chunk async for chunk in utterance] == []
    assert PLAIN.seconds(len(first)) < 1
    assert await heard(engine.say("Next.", voice=ENGLISH, fmt=PLAIN))


async def test_what_is_dropped_is_forgotten(engine: Engine) -> None:
    def memory_kb() -> int:
        status = Path(f"/proc/{engine.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    before = 0
    for n in range(110):
        with engine.say("word, " * 30_000, voice=ENGLISH, fmt=AudioFormat(Encoding.LINEAR16, 8000)) as utterance:
            await anext(utterance)
        if n == 10:
            before = memory_kb()
    assert memory_kb() - before < 8_000  # the texts alone would be 18,000


async def test_leaving_the_block_ends_one_text_only(engine: Engine) -> None:
    other = engine.say(STORY, voice=ENGLISH, fmt=PLAIN)
    with engine.say(STORY, voice=ENGLISH, fmt=PLAIN) as utterance:
        await anext(utterance)
    whole = await heard(engine.say(STORY, voice=ENGLISH, fmt=PLAIN))
    assert len(await heard(other)) == pytest.approx(len(whole), rel=0.01)


async def test_what_is_not_taken_is_not_rendered(engine: Engine) -> None:
    slow = engine.say(STORY * 100, voice=ENGLISH, fmt=PLAIN)
    await anext(slow)
    # The engine serves in turn: once others have been served several times over, the slow one has had all it will get.
    for _ in range(5):
        await heard(engine.say(STORY, voice=ENGLISH, fmt=PLAIN))
    assert slow.words[-1].at_s < 15
    slow.cancel()


async def test_a_long_text_holds_up_no_short_one(engine: Engine) -> None:
    order: list[str] = []

    async def say(name: str, text: str) -> None:
        await heard(engine.say(text, voice=ENGLISH, fmt=PLAIN))
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(say("long", STORY * 10))
        for n in range(10):
            group.create_task(say(f"short {n}", "A short one."))
    assert order[-1] == "long"


async def test_a_killed_process_is_replaced_and_its_text_reported(fragile: Engine) -> None:
    utterance = fragile.say(STORY * 50, voice=ENGLISH, fmt=PLAIN)
    await anext(utterance)
    first = fragile.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(SpeechError, match="SIGKILL"):
        await heard(utterance)
    assert await heard(fragile.say("And on it goes.", voice=ENGLISH, fmt=PLAIN))
    assert fragile.pid != first


async def test_a_crash_loop_is_an_error_by_name_and_not_for_ever() -> None:
    async with Engine(crashes=3, crash_window_s=0.6) as engine:
        for _ in range(3):
            utterance = engine.say(STORY * 50, voice=ENGLISH, fmt=PLAIN)
            await anext(utterance)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            with pytest.raises(SpeechError):
                await heard(utterance)
        if engine.down_s is not None:  # else the machine was so slow that the deaths were too far apart
            with pytest.raises(SpeechError, match=r"crashed 3 times in 0\.6 s"):
                engine.say("Now?", voice=ENGLISH, fmt=PLAIN)
            await asyncio.sleep(engine.down_s + 0.1)
        assert await heard(engine.say("And now.", voice=ENGLISH, fmt=PLAIN))


async def test_a_text_of_which_the_process_dies_is_refused_by_name_and_others_go_on() -> None:
    async with Engine(crashes=2) as engine:
        vietnamese = engine.voice("vi")
        assert vietnamese
        for _ in range(3):  # no crash loop: the process is not to blame
            waiting = engine.say(STORY * 50, voice=ENGLISH, fmt=PLAIN)
            await anext(waiting)
            hostile = engine.say("\u2460-a", voice=vietnamese, fmt=PLAIN)
            with pytest.raises(UnspeakableText, match=r"SIG.* over this text"):
                await heard(hostile)
            with pytest.raises(SpeechError, match="say the text again"):
                await heard(waiting)
            assert await heard(engine.say("And on it goes.", voice=ENGLISH, fmt=PLAIN))
        assert engine.down_s is None


async def test_stopping_the_engine_ends_what_is_being_said() -> None:
    async with Engine() as engine:
        utterance = engine.say(STORY * 50, voice=ENGLISH, fmt=PLAIN)
        await anext(utterance)
    with pytest.raises(SpeechError, match="stopped"):
        await heard(utterance)
    with pytest.raises(LocalProtocolError):
        engine.say("Too late.", voice=ENGLISH, fmt=PLAIN)


# The worker, with other places to look for the library.
ELSEWHERE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv.pop(1))
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.SYSTEM_LIBRARIES = sys.argv[1:]
sys.argv[1:] = [""]
worker.main()
"""


@pytest.mark.parametrize("library", ["libespeak-ng-of-no-machine.so", str(espeakng_loader.get_library_path())])
async def test_without_library_or_data_the_command_to_type_is_named(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(engine_module._WORKER), library]
    monkeypatch.setattr(engine_module, "_command", lambda: command)
    with pytest.raises(ConfigError, match=r"pip install 'llm2ws\[local\]'"):
        async with Engine():
            pass


async def test_a_process_that_does_not_start_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_command", lambda: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SpeechError, match="exit code 3"):
        async with Engine():
            pass


# Forbids memory that is both written and executed, as systemd's MemoryDenyWriteExecute does, and becomes the worker.
MDWE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def forbidding() -> list[str]:
    """The beginning of a command that forbids it."""
    command = [sys.executable, "-c", MDWE]
    if subprocess.run([*command, sys.executable, "-c", ""], check=False).returncode == 77:
        pytest.skip("needs Linux 6.3, which can forbid it")
    return command


async def test_memory_need_not_be_both_written_and_executed(monkeypatch: pytest.MonkeyPatch, forbidding: list[str]) -> None:
    command = [*forbidding, *engine_module._command()]
    monkeypatch.setattr(engine_module, "_command", lambda: command)
    async with Engine() as engine:
        assert await heard(engine.say("Yes.", voice=ENGLISH, fmt=PLAIN))


# The worker, busy for ever with any text, as an endless loop in the library would be.
STUCK = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv.pop(1))
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.SLICE_CPU_S = 1
def render(self, job):
    while True:
        pass
worker.Synthesizer.render = render
worker.main()
"""


async def test_a_text_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    command = engine_module._command()
    worker = command.index(str(engine_module._WORKER))
    monkeypatch.setattr(engine_module, "_command", lambda: [*command[:worker], "-c", STUCK, *command[worker:]])
    async with Engine() as engine:
        with pytest.raises(SpeechError, match="SIGXCPU"):
            await heard(engine.say("Any text.", voice=ENGLISH, fmt=PLAIN))


async def test_the_process_has_no_environment_and_only_its_pipes(engine: Engine) -> None:
    await heard(engine.say("Hello.", voice=ENGLISH, fmt=PLAIN))  # so that all is loaded
    process = Path(f"/proc/{engine.pid}")
    assert (process / "environ").read_bytes() == b""
    targets = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
    assert {target.partition(":")[0] for target in targets} <= {"pipe", "/dev/null"}
    assert os.getpgid(engine.pid or 0) == engine.pid
    limits = (process / "limits").read_text()
    assert "unlimited" not in next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert "Threads:\t2\n" in (process / "status").read_text()


async def test_no_process_is_left_when_the_parent_is_killed() -> None:
    script = """
import asyncio
from llm2ws.audio import AudioFormat
from llm2ws.localspeech.engine import Engine
async def main():
    async with Engine() as engine:
        utterance = engine.say("word, " * 20000, voice=engine.voice("en-us"), fmt=AudioFormat())
        await anext(utterance)
        print(engine.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=subprocess.PIPE, env=child_environment(), cwd=ROOT
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(await parent.stdout.readline()))
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(child, gone.set)
    parent.kill()
    async with asyncio.timeout(10):
        await gone.wait()
    asyncio.get_running_loop().remove_reader(child)
    os.close(child)
    await parent.wait()


async def test_ids_may_wrap_around(engine: Engine) -> None:
    engine._count = 0xFFFF_FFFE
    for _ in itertools.repeat(None, 3):
        assert await heard(engine.say("Yes.", voice=ENGLISH, fmt=PLAIN))
