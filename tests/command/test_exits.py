"""What can go wrong with the command, each as a real process: its exit code, one line that names cause, place and remedy, and
no traceback. `tests.support.run` looks for the traceback and for credentials."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import re
import socket
import ssl
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support import MS, Finished, child_environment, run, start

TEXT = "Hello there. How are you?"


class Fault(NamedTuple):
    """A command and what must come of it. `line`: a pattern for what standard error says besides who speaks; "" for nothing."""

    name: str
    args: Sequence[str]
    code: int
    line: str
    stdin: bytes | None = None
    env: dict[str, str] | None = None
    files: dict[str, str] | None = None


def setting(text: str) -> dict[str, str]:
    return {"s.toml": text}


FAULTS = [
    Fault("no arguments", ["say"], 2, r"Missing argument 'PROMPT'\. See llm2ws say --help"),
    Fault("unknown command", ["sya"], 2, r"No such command 'sya'\..*See llm2ws --help"),
    Fault("unknown flag", ["say", "x", "--polcy", "word"], 2, r"No such option '--polcy'.*--policy.*See llm2ws say --help"),
    Fault("unknown value", ["say", "x", "--policy", "y"], 2, r"'--policy': 'y' is not one of 'token', .*See llm2ws say --help"),
    Fault("too much", ["say", "x", "y"], 2, r"unexpected extra argument \(y\)\. See llm2ws say --help"),
    Fault("below zero", ["say", "x", "--temperature", "-1"], 2, r"'--temperature': -1.* is not in the range x>=0\. See"),
    Fault("no number", ["say", "x", "--temperature", "nan"], 2, r"'--temperature': nan is no number .*See llm2ws say --help"),
    Fault("too many samples", ["say", "x", "--rate", "99999999999"], 2, r"'--rate': 99999999999 is not in the range"),
    Fault("two texts", ["explain", "x", "-f", "s.toml"], 2, r"TEXT and --file are two texts: give one", files=setting("")),
    Fault("unknown LLM", ["say", "x", "--llm", "gpt"], 2, r"LLM 'gpt' is not known: give one of .*echo"),
    Fault(
        "unknown endpoint",
        ["say", "x", "--speech", "me"],
        2,
        r"speech endpoint 'me' is not known: give one of deepgram, deepgram-v2, elevenlabs, cartesia, local",
    ),
    Fault("no key", ["say", "x", "--speech", "deepgram"], 2, r"no key for deepgram: set DEEPGRAM_API_KEY, or use .*'local'"),
    Fault("no such voice", ["say", "x", "--voice", "xx-nobody", "-o", "o.wav"], 4, r"HTTP 400 .*: look at voice, encoding"),
    Fault("no such rate", ["say", "x", "--rate", "11025", "-o", "o.wav"], 2, r"no linear16 11025 Hz: .*24000"),
    Fault("empty prompt", ["say", ""], 2, r"the prompt is empty: give a text, or - for standard input"),
    Fault("blank prompt", ["say", " \n\t"], 2, r"the prompt is empty: give a text, or - for standard input"),
    Fault("empty input", ["say", "-", "-o", "o.wav"], 0, r"there was no text", stdin=b""),
    Fault("blank input", ["say", "-", "-o", "o.wav"], 0, r"there was nothing in the text that can be spoken", stdin=b" \n\n"),
    Fault("binary input", ["say", "-", "-o", "o.wav"], 0, "", stdin=bytes(range(256))),
    Fault("NUL in the input", ["say", "-", "-o", "o.wav"], 0, "", stdin=b"One.\0Two.\0"),
    Fault("half a character at the end", ["say", "-", "-o", "o.wav"], 0, "", stdin="Caf\u00e9".encode()[:-1]),
    Fault("lone surrogate", ["say", os.fsdecode(b"One \xed\xa0\x80\xff two."), "-o", "o.wav"], 0, ""),
    Fault(
        "LANG=C", ["say", "Gr\u00fc\u00dfe \U0001f600 aus K\u00f6ln.", "-o", "o.wav"], 0, "", env={"LANG": "C", "LC_ALL": "C"}
    ),
    Fault("Latin-1", ["say", "Gr\u00fc\u00dfe.", "-o", "o.wav"], 0, "", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
    Fault("missing folder", ["say", TEXT, "-o", "no/o.wav"], 5, r"no/o\.wav: no such file or directory: make its folder first"),
    Fault("folder as file", ["say", TEXT, "-o", "."], 5, r"\.: is a directory: name a file in it"),
    Fault("full disk", ["say", TEXT, "-o", "/dev/full"], 5, r"/dev/full: no space left on device: make room"),
    Fault("unknown format", ["say", TEXT, "-o", "o.mp3"], 2, r"o\.mp3: no format is known by that ending: give one of \.wav"),
    Fault("name and encoding", ["say", "x", "-o", "o.ulaw", "--encoding", "alaw"], 2, r"o\.ulaw: not a name for alaw: leave"),
    Fault(
        "two for stdout", ["say", TEXT, "--json", "-o", "-"], 2, r"--json and -o - both want standard output: write the audio"
    ),
    Fault(
        "TOML syntax",
        ["say", "x", "--config", "s.toml"],
        2,
        r"s\.toml: .*line 2, column 8\): correct",
        files=setting("\nlog = [x"),
    ),
    Fault(
        "unknown key",
        ["say", "x", "--config", "s.toml"],
        2,
        r"s\.toml: text\.polcy: no such setting: did you mean text\.policy\?",
        files=setting("[text]\npolcy = 'word'"),
    ),
    Fault(
        "wrong type",
        ["say", "x", "--config", "s.toml"],
        2,
        r"s\.toml: text\.max_chars: expected int, got str",
        files=setting("[text]\nmax_chars = 'x'"),
    ),
    Fault(
        "unknown variable",
        ["say", "x"],
        2,
        r"the environment: LLM2WS_TEXT__POLCY: .*LLM2WS_TEXT__POLICY",
        env={"LLM2WS_TEXT__POLCY": "x"},
    ),
    Fault(
        "no settings file", ["say", "x", "--config", "no.toml"], 2, r"no\.toml: No such file or directory: name a settings file"
    ),
    Fault(
        "no .env text",
        ["say", "x"],
        2,
        r"\.env: LLM2WS_LOG: invalid enum value: give one of debug",
        files={".env": "LLM2WS_LOG=x"},
    ),
    Fault("no address", ["say", "x", "--speech", "http://h"], 2, r"not a WebSocket address: write it as wss://host:port/path"),
    Fault(
        "clear text key",
        ["say", "x", "--speech", "far"],
        2,
        r"a key would be sent in clear text: use wss://",
        env={"LLM2WS_SPEECH__FAR__URL": "ws://192.0.2.1", "LLM2WS_SPEECH__FAR__API_KEY": "k"},
    ),
    Fault(
        "no CA file",
        ["say", "x", "--speech", "far"],
        2,
        r"CA file no\.pem: No such file or directory: give a PEM file",
        env={"LLM2WS_SPEECH__FAR__URL": "wss://localhost:9", "LLM2WS_SPEECH__FAR__CA_FILE": "no.pem"},
    ),
    Fault(
        "host unknown", ["say", "x", "--speech", "ws://nowhere.invalid"], 4, r"nowhere\.invalid.*not known|cannot be looked up"
    ),
    Fault(
        "no listener",
        ["say", "x"],
        4,
        r"ws://127\.0\.0\.1:9/v1/speak: nothing listens there: start",
        env={"LLM2WS_SPEECH__X__URL": "ws://127.0.0.1:9", "LLM2WS_SPEECH__X__CONNECT_S": "1"},
    ),
    Fault("--listen", ["speech-server", "--listen", "8766"], 2, r"--listen '8766': not an address: write HOST:PORT"),
    Fault(
        "open to all", ["speech-server", "--listen", "0.0.0.0:0"], 2, r"would serve anyone who reaches 0\.0\.0\.0:0: set a key"
    ),
    Fault(
        "no key file",
        ["speech-server", "--key-file", "no"],
        2,
        r"key file no: No such file or directory: name a file that holds",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(tmp_path: Path, fault: Fault) -> None:
    for name, text in (fault.files or {}).items():
        (tmp_path / name).write_text(text)

    done = run(fault.args, cwd=tmp_path, input=fault.stdin, env=fault.env)

    check(done, fault.code, fault.line)
    if fault.code == 0:
        with wave.open(str(tmp_path / "o.wav")) as file:
            assert (file.getnframes() > 0) == (fault.line == "")


def check(done: Finished, code: int, line: str) -> None:
    """One line at most besides the one that says who speaks."""
    said = [one for one in done.stderr.splitlines() if not one.endswith(" Hz)")]
    assert done.code == code, done.stderr
    assert all(one.startswith("llm2ws: ") for one in said), done.stderr
    assert len(said) == (1 if line else 0), done.stderr
    assert not line or re.search(line, said[0]), done.stderr


# --- input and output that come to an end -----------------------------------------------------------------------------------


def test_ten_megabytes_without_a_newline_are_read_as_they_are_taken(tmp_path: Path) -> None:
    """It would take hours to speak; what counts is that it begins, and that it ends when nobody listens any more."""
    data = b"word and " * 1_200_000
    with start(["say", "-", "-o", "-"], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        os.set_blocking(process.stdin.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            sent = 0
            while sent < len(data):
                sent += os.write(process.stdin.fileno(), data[sent : sent + 65_536])
        assert process.stdout.read(100)[:4] == b"RIFF"
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30_000 * MS) == 5


def test_ten_megabytes_of_one_word_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"a" * 10_000_000)
    with (tmp_path / "long.txt").open("rb") as file:
        process = start(["say", "-", "-o", "-"], cwd=tmp_path, stdin=file.fileno())
    with process:
        assert process.stdout
        assert process.stdout.read(100)[:4] == b"RIFF"
        process.stdout.close()
        assert process.wait(30_000 * MS) == 5


@pytest.mark.parametrize(("args", "code"), [(["--rate", "1"], 2), (["--voice", "xx-nobody"], 4)], ids=["rate", "voice"])
def test_a_wrong_flag_costs_no_file(tmp_path: Path, args: list[str], code: int) -> None:
    (tmp_path / "keep.wav").write_bytes(b"of before")
    assert run(["say", TEXT, "-o", "keep.wav", *args], cwd=tmp_path).code == code
    assert (tmp_path / "keep.wav").read_bytes() == b"of before"


@pytest.mark.parametrize(
    "args",
    [
        ["say", TEXT, "-o", "-"],
        ["say", TEXT, "--no-play"],
        ["say", TEXT, "--no-play", "--json"],
        ["explain", TEXT],
        ["explain", "--help"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_the_reader_of_standard_output_has_gone(tmp_path: Path, args: list[str]) -> None:
    with start(args, cwd=tmp_path) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        stderr = process.stderr.read().decode()
    check(Finished(process.wait(), b"", stderr), 5, "standard output: its reader has gone: nothing more can be written")


@pytest.mark.parametrize(
    ("closed", "args", "code", "line"),
    [
        ("<&-", "say -", 2, "standard input is closed: give it some text, or a prompt"),
        (">&-", "say x -o -", 5, "standard output is closed: give it a file or a pipe"),
        (">&-", "say x --no-play", 0, ""),
        ("2>&-", "say x --no-play", 0, ""),
        ("2>&-", "check", 0, ""),
        ("<&- >&- 2>&-", "say x -o o.wav", 0, ""),
        (">/dev/full", "explain x", 5, "standard output: no space left on device: look at where it goes"),
        (">/dev/full", "check", 5, "standard output: no space left on device: look at where it goes"),
        (">/dev/full", "--help", 5, "standard output: no space left on device: look at where it goes"),
        (">/dev/full", "--version", 5, "standard output: no space left on device: look at where it goes"),
    ],
)
def test_closed_standard_streams(tmp_path: Path, closed: str, args: str, code: int, line: str) -> None:
    command = f'"$0" -P -m llm2ws {args} {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], cwd=tmp_path, env=child_environment(), capture_output=True, check=False
    )
    check(Finished(done.returncode, done.stdout, done.stderr.decode()), code, line)


def test_the_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(["speech-server", "--listen", f"127.0.0.1:{port}"], cwd=tmp_path)
    check(done, 2, rf"cannot listen on 127\.0\.0\.1:{port} \(.*\): stop the program that listens there, or choose another")


# --- the embedded endpoint --------------------------------------------------------------------------------------------------


def test_the_speech_library_is_missing(tmp_path: Path) -> None:
    """The wheel is hidden by a package that has no library, and no system library answers either."""
    folders = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
    if any((Path(folder) / "libespeak-ng.so.1").exists() for folder in folders):
        pytest.skip("this system has espeak-ng itself")
    package = tmp_path / "espeakng_loader"
    package.mkdir()
    (package / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), child_environment()["PYTHONPATH"]])
    done = run(["say", TEXT, "-o", "o.wav"], cwd=tmp_path, env={"PYTHONPATH": path})
    check(done, 2, r"espeak-ng could not be loaded .*: pip install 'llm2ws\[local\]'")


def test_the_speech_process_dies_again_and_again(tmp_path: Path) -> None:
    """What it imports ends it: the process takes its parts from where they are found here."""
    for name in ("numpy", "soxr"):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text("import os; os.abort()")
    path = os.pathsep.join([str(tmp_path), child_environment()["PYTHONPATH"]])
    done = run(["say", TEXT, "-o", "o.wav", "-q"], cwd=tmp_path, env={"PYTHONPATH": path})
    # Either is told, whichever is found first: the engine does not stay up, or the endpoint hangs up again and again.
    check(done, 4, r"speech engine|internal error \(1011 NET-0000\)")


# --- endpoints that misbehave -----------------------------------------------------------------------------------------------

Handler = Callable[[ServerConnection], Awaitable[None]]


async def nothing(ws: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for _ in ws:
            pass


async def audio_then(ws: ServerConnection, end: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in ws:
            if "Flush" in str(message):
                await ws.send(bytes(4_800))
                await end()


@contextlib.asynccontextmanager
async def endpoint(
    handler: Handler = nothing, *, status: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    def answer(ws: ServerConnection, request: Request) -> Response | None:
        return None if status is None else ws.respond(HTTPStatus(status), "No.\n")

    async with serve(handler, "127.0.0.1", 0, process_request=answer, ssl=tls, close_timeout=0.1) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def say(tmp_path: Path, url: str, settings: str = "", env: dict[str, str] | None = None) -> Finished:
    (tmp_path / "s.toml").write_text(f"[speech.it]\nurl = '{url}'\nconnect_s = {1_000 * MS}\n{settings}")
    args = ["say", TEXT, "-o", "o.wav", "--speech", "it", "--config", "s.toml", "--no-play", "-q"]
    return await asyncio.to_thread(run, args, cwd=tmp_path, env=env)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, "answered HTTP 200: this is no speech endpoint: look at url"),
        (400, "answered HTTP 400.*: look at voice, encoding, sample rate and speed"),
        (401, "answered HTTP 401.*: the key is wrong or missing: set DEEPGRAM_API_KEY or api_key"),
        (429, "answered HTTP 429.*: too many connections at once for this account"),
        (503, "answered HTTP 503.*: try again"),
    ],
)
async def test_a_refused_handshake(tmp_path: Path, status: int, line: str) -> None:
    async with endpoint(status=status) as port:
        check(await say(tmp_path, f"ws://127.0.0.1:{port}"), 4, rf"ws://127\.0\.0\.1:{port}/v1/speak: {line}")


async def test_a_close_in_mid_turn(tmp_path: Path) -> None:
    async def handler(ws: ServerConnection) -> None:
        await audio_then(ws, lambda: ws.close(1008, "no more"))

    async with endpoint(handler) as port:
        done = await say(tmp_path, f"ws://127.0.0.1:{port}")
    check(done, 4, r"the endpoint refused a message \(1008 no more\)")
    with wave.open(str(tmp_path / "o.wav")) as file:
        assert file.getnframes() == 2_400, "what came before is kept"


async def test_closes_in_mid_turn_again_and_again(tmp_path: Path) -> None:
    async def handler(ws: ServerConnection) -> None:
        await audio_then(ws, lambda: ws.close(1011, "NET-0000"))

    async with endpoint(handler) as port:
        done = await say(tmp_path, f"ws://127.0.0.1:{port}")
    check(done, 4, r"the endpoint had an internal error \(1011 NET-0000\): try again")


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_endpoint_that_hangs_up_again_and_again(tmp_path: Path, how: str) -> None:
    async def handler(ws: ServerConnection) -> None:
        if how == "close":
            await ws.close(1011, "NET-0000")
        else:
            ws.transport.abort()

    async with endpoint(handler) as port:
        done = await say(tmp_path, f"ws://127.0.0.1:{port}")
    check(done, 4, r"3 times without audio: the endpoint had an internal error|the connection broke|internal error")


async def test_silence(tmp_path: Path) -> None:
    async with endpoint() as port:
        done = await say(tmp_path, f"ws://127.0.0.1:{port}", f"silence_s = {300 * MS}")
    check(done, 4, "silent|no audio|nothing")


# --- TLS --------------------------------------------------------------------------------------------------------------------


class Authority(NamedTuple):
    ca: trustme.CA
    file: Path

    def server(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        over = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self.ca.issue_cert(*names, not_before=over - dt.timedelta(days=9), not_after=over if expired else None)
        certificate.configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    ca, file = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return Authority(ca, file)


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("unknown authority", "its certificate is from an unknown authority: name the authority with ca_file"),
        ("wrong host", "its certificate is for another host: look at the address and at its certificate"),
        ("expired", "its certificate has expired: look at the address and at its certificate"),
        ("no TLS", "look at url, (and )?whether it is ws:// or wss://|use ws://"),
    ],
)
async def test_a_certificate_that_cannot_be_trusted(tmp_path: Path, authority: Authority, case: str, line: str) -> None:
    name = "other.example" if case == "wrong host" else "127.0.0.1"
    tls = None if case == "no TLS" else authority.server(name, expired=case == "expired")
    ca = "" if case == "unknown authority" else f"ca_file = '{authority.file}'"
    async with endpoint(tls=tls) as port:
        done = await say(tmp_path, f"wss://127.0.0.1:{port}", ca)
    check(done, 4, line)


async def test_a_private_authority_that_is_named(tmp_path: Path, authority: Authority) -> None:
    """The certificate is accepted: what fails is the next thing."""
    async with endpoint(tls=authority.server("127.0.0.1"), status=404) as port:
        done = await say(tmp_path, f"wss://127.0.0.1:{port}", f"ca_file = '{authority.file}'")
    check(done, 4, "answered HTTP 404: there is no speech endpoint at this address")
