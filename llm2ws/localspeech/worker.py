"""The child process in which espeak-ng runs: text in by standard input, sound out by standard output.

It is started by its file path and imports nothing of this package. espeak-ng is under the GPL, version 3 or later, and
this package is not: the two meet only over a pair of pipes that carry plain text and plain samples, and any program that
reads and writes the frames below can take this one's place. A process of its own also means that a crash in the C
library takes nothing else with it, and that its callbacks do not wait for a busy event loop's interpreter lock.

    python -I -S worker.py <folder of the espeakng_loader wheel, or ""> <folders with numpy and soxr>...

A frame is `kind, id, length` (one byte, two unsigned 32-bit little-endian numbers), then `length` bytes.

    in   t  a new text, as JSON: text, voice, wpm, pitch, rate_hz. Its first slice is rendered
         g  render the next slice of text `id`
         c  cancel text `id`. There is no answer; frames of it that are on their way are to be dropped
    out  h  ready, as JSON: version, voices, variants; or the reason why not: error
         b  a slice of text `id` begins: if the process dies before its `s` or `e`, this text is the cause
         w  a word begins: its position in the text, its length (both in characters), its position in the audio in ms
         a  audio: linear16 at rate_hz, little endian
         s  the slice ends, and the text does not
         e  the text ends
    The end of the input ends the process, so that none is left behind when the parent is killed.

A slice ends at the first end of a clause after SLICE_S seconds. Slices are rendered in the order in which they are asked for,
so that a long text holds up no other, and a text that nobody takes costs nothing. espeak-ng is stopped at the end of the slice,
and starts there with the rest of the text: the audio is the same as in one piece, to a few samples.

A pause of 0.3 s, at the usual speed, follows each sentence, also the last one of a text, but not a text that ends within one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import queue
import re
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import soxr

SLICE_S = 2.0
BUFFER_MS = 200  # of audio in one callback; espeak-ng's least is 60
MEMORY_BYTES = 512 << 20  # the process's limit; about 100 MiB are in use with numpy loaded
SLICE_CPU_S = 10  # the limit for one slice, which takes milliseconds
HEADER = struct.Struct("<BII")
WORD = struct.Struct("<III")

# The names of the library in a system package, and in the wheel, which is tried first.
SYSTEM_LIBRARIES = ("libespeak-ng.so.1", "libespeak-ng.1.dylib", "libespeak-ng.dylib", "libespeak-ng.dll")
WHEEL_LIBRARIES = ("libespeak-ng.so", "libespeak-ng.dylib", "espeak-ng.dll")

# From espeak-ng/speak_lib.h.
SYNCHRONOUS, DONT_EXIT = 2, 0x8000  # without the second a missing data folder ends the process inside the library
CHARS_UTF8, ENDPAUSE, POSITION_CHARACTER = 1, 0x1000, 1
RATE, PITCH = 1, 3
EVENTS_END, EVENT_WORD, EVENT_CLAUSE_END = 0, 1, 5

# Marks that end a sentence, and marks that may close behind them. A semicolon is the Greek question mark.
STOPS = ".!?…‽‼⁇⁈⁉。！？｡．؟۔।॥።፧։။៕།\u037e"
CLOSERS = r"\"'’”»›)\]}」』）】》〉"
SENTENCE_END = re.compile(rf"(?:[{STOPS}]|(?<=[\u0370-\u03ff\u1f00-\u1fff]);)\Z")
AFTER_STOP = re.compile(rf"(?<=[{STOPS}])[\s{CLOSERS}]+(?=\s|\Z)")


class EspeakEventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class EspeakEvent(ctypes.Structure):
    """`espeak_EVENT`: a word, a clause or the end of the list, with its positions."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # in ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", EspeakEventId),
    ]


class VoiceInfo(ctypes.Structure):
    """`espeak_VOICE`: what the library says about a voice."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),  # (one byte of priority, code, NUL)..., NUL
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(EspeakEvent))


class Job:
    """One text, and how far it has been rendered. `wpm`: the speed in words a minute; `pitch`: 0 to 99."""

    def __init__(self, number: int, text: str, *, voice: str, wpm: int, pitch: int, rate_hz: int) -> None:
        self.number = number
        self.text = speakable(text)
        self.flags = CHARS_UTF8 | (ENDPAUSE if SENTENCE_END.search(self.text) else 0)
        self.sound = (voice, wpm, pitch)
        self.rate_hz = rate_hz
        self.position = 0  # characters that have been rendered
        self.samples = 0  # that have been rendered, at the library's rate
        self.slice_start = 0  # `samples` at the start of the slice
        self.stopped_at = 0  # where the slice was stopped, in characters from its start; 0: nowhere
        self.resampler: soxr.ResampleStream | None = None
        self.has_words = False
        self.held: list[bytes] = []  # silence before the first word, since a text without a word has no audio


class Synthesizer:
    """The library, which renders one slice of one text at a time. `live`: the texts that are neither over nor cancelled."""

    def __init__(self, library: ctypes.CDLL, rate_hz: int, live: dict[int, Job], out: BinaryIO) -> None:
        self.library = library
        self.rate_hz = rate_hz
        self.live = live
        self.out = out
        self.job: Job | None = None  # whose slice is being rendered
        self.sound: tuple[str, int, int] | None = None  # the voice, speed and pitch that are set
        self.callback = Callback(self.take)  # the library keeps no reference of its own
        library.espeak_SetSynthCallback(self.callback)

    def render(self, job: Job) -> None:
        """Render one slice of the text and send it."""
        self.prepare(job)
        self.job, job.slice_start, job.stopped_at = job, job.samples, 0
        send(self.out, "b", job.number)
        text = job.text[job.position :].encode()
        self.library.espeak_Synth(text, len(text) + 1, 0, POSITION_CHARACTER, 0, job.flags, None, None)
        if job.number not in self.live:
            return
        job.position += job.stopped_at
        if job.stopped_at > 0 and job.position < len(job.text):
            send(self.out, "s", job.number)
            return
        if job.has_words:
            self.send_audio(job, b"", last=True)
        self.live.pop(job.number, None)  # the reader may have just removed it
        send(self.out, "e", job.number)

    def prepare(self, job: Job) -> None:
        """Set the voice, the speed and the pitch, and make the resampler for the first slice."""
        if job.resampler is None:
            import soxr

            job.resampler = soxr.ResampleStream(self.rate_hz, job.rate_hz, 1, dtype="int16", quality="HQ")
        if job.sound != self.sound:
            voice, wpm, pitch = job.sound
            self.library.espeak_SetVoiceByName(voice.encode())
            self.library.espeak_SetParameter(RATE, wpm, 0)
            self.library.espeak_SetParameter(PITCH, pitch, 0)
            self.sound = job.sound

    def take(self, wave: int | None, n_samples: int, events: ctypes._Pointer[EspeakEvent]) -> int:
        """Take a buffer of audio, as the library's callback. Return 0 to go on, 1 to stop, which is the only way to stop it."""
        try:
            return self.take_buffer(wave, n_samples, events)
        except BaseException:  # noqa: BLE001  # ctypes would print it and go on
            os._exit(1)

    def take_buffer(self, wave: int | None, n_samples: int, events: ctypes._Pointer[EspeakEvent]) -> int:
        """Send what a buffer holds. `wave` is None for the last call of a slice. Return 0 to go on, 1 to stop."""
        job = self.job
        if job is None or job.number not in self.live:
            return 1
        clause_end = 0
        for event in until_end(events):
            if event.type == EVENT_WORD:
                job.has_words = True
                at_ms = (job.slice_start + event.sample) * 1000 // self.rate_hz
                place = job.position + event.text_position - 1
                send(self.out, "w", job.number, WORD.pack(max(place, 0), event.length, at_ms))
            elif event.type == EVENT_CLAUSE_END:
                clause_end = event.text_position
        if wave and n_samples:
            job.samples += n_samples
            job.held.append(ctypes.string_at(wave, 2 * n_samples))  # the library uses the buffer again
        if job.has_words and job.held:
            self.send_audio(job, b"".join(job.held))
            job.held.clear()
        # A buffer never reaches over the end of a clause: what has been taken ends there too.
        if clause_end and job.samples - job.slice_start >= SLICE_S * self.rate_hz:
            job.stopped_at = clause_end
            return 1
        return 0

    def send_audio(self, job: Job, pcm: bytes, *, last: bool = False) -> None:
        """Send audio at the rate of the text. `last`: the text ends, and so do the samples that the resampler kept."""
        import numpy as np

        assert job.resampler is not None  # made by prepare()
        audio = job.resampler.resample_chunk(np.frombuffer(pcm, dtype=np.int16), last=last)
        if len(audio):
            send(self.out, "a", job.number, audio.tobytes())


def speakable(text: str) -> str:
    """Return a text without what the library cannot take. Replacements keep their length, so that all positions stay right.

    A NUL ends a C string, and a lone surrogate has no UTF-8. The library (1.52) makes one word of `U.S.A.`, in a buffer of
    160 bytes whose end it does not watch: every twentieth such dot without a space becomes one. Marks alone, which it would
    call by their names ("exclamation"), are not spoken. A closing mark or a blank line behind a full stop makes a clause
    without a word, whose pause of up to 0.5 s would be added to that of the sentence; one character of white space makes none.
    """
    if not re.search(r"[^\s.,;:!?…]", text):
        return ""
    text = re.sub("[\0\ud800-\udfff]", " ", text)
    text = AFTER_STOP.sub(lambda run: " " * len(run[0]), text).rstrip()
    return re.sub(r"(?:[^\s.]{0,3}\.){20}", lambda run: run[0][:-1] + " ", text)


def until_end(events: ctypes._Pointer[EspeakEvent]) -> Iterator[EspeakEvent]:
    """Yield the events of a callback, without the one that ends their list."""
    i = 0
    while events[i].type != EVENTS_END:
        yield events[i]
        i += 1


def send(out: BinaryIO, kind: str, number: int, payload: bytes = b"") -> None:
    """Write a frame."""
    out.write(HEADER.pack(ord(kind), number, len(payload)) + payload)
    out.flush()


def load(wheel: str) -> tuple[ctypes.CDLL, int]:
    """Return the initialised library and its sample rate in Hz. `wheel`: its folder, or "". Raises OSError when none works."""
    tried: list[str] = []
    of_wheel = [(str(file), wheel) for name in WHEEL_LIBRARIES if (file := Path(wheel, name)).exists()] if wheel else []
    for path, folder in [*of_wheel, *((name, "") for name in SYSTEM_LIBRARIES)]:
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
            continue
        # The path of the data is copied into 160 bytes, so it is kept at one; it must hold `espeak-ng-data`. The path
        # that the wheel was compiled with is a folder of its publisher's, so only a system library may use its own.
        os.chdir(folder or "/")
        library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        rate_hz = library.espeak_Initialize(SYNCHRONOUS, BUFFER_MS, b"." if folder else None, DONT_EXIT)
        if rate_hz > 0:  # the header says -1 for an error; missing data gives 0
            declare(library)
            return library, rate_hz
        tried.append(f"{path}: its voice data was not found")
    raise OSError("; ".join(tried))


def declare(library: ctypes.CDLL) -> None:
    """Declare the types of the library's functions, after espeak-ng/speak_lib.h."""
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.espeak_SetSynthCallback.argtypes = [Callback]
    library.espeak_ListVoices.argtypes = [ctypes.POINTER(VoiceInfo)]
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(VoiceInfo))
    library.espeak_Info.argtypes = [ctypes.c_void_p]
    library.espeak_Info.restype = ctypes.c_char_p


def list_voices(library: ctypes.CDLL, like: VoiceInfo | None = None) -> Iterator[tuple[str, str, list[tuple[int, str]]]]:
    """Yield (identifier, name, [(priority, language)...]) of every voice; `like` chooses by language."""
    found = library.espeak_ListVoices(like and ctypes.byref(like))
    i = 0
    while found[i]:
        info = found[i].contents
        languages, at = [], info.languages
        while at and (priority := ctypes.string_at(at, 1)[0]):
            code = ctypes.string_at(at + 1)
            languages.append((priority, code.decode()))
            at += len(code) + 2
        yield info.identifier.decode(), info.name.decode(), languages
        i += 1


def describe(library: ctypes.CDLL) -> dict[str, object]:
    """Return what the `h` frame says. A language code stands for the voice that has it with the lowest priority number."""
    by_language: dict[str, tuple[int, str]] = {}
    by_name: dict[str, str] = {}
    for identifier, name, languages in list_voices(library):
        if identifier.startswith("mb/"):  # needs a program that is not here
            continue
        by_name[name.lower()] = by_name[identifier.lower()] = identifier
        for priority, code in languages:
            by_language[code.lower()] = min(by_language.get(code.lower(), (256, "")), (priority, identifier))
    wanted = ctypes.create_string_buffer(b"variant")
    variants = list_voices(library, VoiceInfo(languages=ctypes.addressof(wanted)))
    return {
        "version": library.espeak_Info(None).decode().split()[0],
        "voices": by_name | {code: identifier for code, (_, identifier) in by_language.items()},
        "variants": sorted(identifier.removeprefix("!v/") for identifier, _, _ in variants),
    }


def set_limits() -> None:
    """Limit the memory and the files of the process, and leave no core file, because the text would be in it."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # 0 does not stop a core that is piped to a program; 1 byte does
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def allow_cpu(seconds: int) -> None:
    """Have this process killed once it has used so many more seconds of CPU. A total would end a daemon's engine one day."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, hard))


def read_frames(live: dict[int, Job], slices: queue.SimpleQueue[int]) -> None:
    """Read the parent's frames, in a thread, also while a text is rendered. End the process at the end of its input."""
    try:
        while header := sys.stdin.buffer.read(HEADER.size):
            kind, number, length = HEADER.unpack(header)
            payload = sys.stdin.buffer.read(length)
            match chr(kind):
                case "t":
                    live[number] = Job(number, **json.loads(payload))
                    slices.put(number)
                case "g":
                    slices.put(number)
                case "c":
                    live.pop(number, None)
    finally:
        os._exit(0)


def main() -> None:
    """Load the library, then render one slice after the other."""
    wheel, *folders = sys.argv[1:]
    # Where memory may not be both written and executed (systemd's MemoryDenyWriteExecute), libffi writes its first callback
    # into a file in memory: before files are forbidden. Later ones find room beside it.
    first = Callback(lambda *_: 0)
    set_limits()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not land among the frames
    try:
        library, rate_hz = load(wheel)
    except OSError as error:
        send(out, "h", 0, json.dumps({"error": str(error)}).encode())
        return
    send(out, "h", 0, json.dumps(describe(library)).encode())

    live: dict[int, Job] = {}
    slices: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=read_frames, args=(live, slices), daemon=True).start()
    # numpy takes a tenth of a second to load: after `h`, so that a parent that has no text yet does not wait for it.
    sys.path += folders
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else it starts a thread for every core
    import soxr  # noqa: F401

    synthesizer = Synthesizer(library, rate_hz, live, out)
    del first
    while True:
        if job := live.get(slices.get()):
            allow_cpu(SLICE_CPU_S)
            synthesizer.render(job)


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)  # an ordinary exit waits for the reader's lock on standard input
