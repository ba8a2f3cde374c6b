"""What a booted systemd does with llm2ws: the part of scripts/try_systemd that runs in the container."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

INSTALL = Path(__file__).with_name("install")
SETTINGS = Path("/etc/llm2ws/llm2ws.toml")
KEYS = Path("/etc/llm2ws/keys")
OWN = Path("/run/try")  # what the tests put down for the service to read
FIRST, SECOND = "first-client-key-0123456789", "second-client-key-0123456789"
TEXT = "The sky looks blue since the air scatters short waves more than long ones. " * 5
DAY_S = 86_400
YES = True

# A signal after which the event loop is as blocked as one can be.
BLOCK = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"


class Wrong(Exception):
    """What was to be shown is not so."""


def sh(*command: str | Path, ok: tuple[int, ...] = (0,)) -> str:
    """What it prints. Raises Wrong for another exit code than those."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode not in ok:
        raise Wrong(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def systemctl(*args: str) -> str:
    return sh("systemctl", *args)


def show(name: str, unit: str = "llm2ws.service") -> str:
    return sh("systemctl", "show", "--value", "-p", name, unit).strip()


def expect(what: str, found: object, wanted: object = YES) -> None:
    if found != wanted:
        raise Wrong(f"{what}: {found!r} instead of {wanted!r}")


def until(what: str, true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Another process has to come to it: there is nothing else to wait for."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Wrong(f"after {seconds:g} s still not: {what}")
        time.sleep(0.05)


def log(*filters: str) -> str:
    return sh("journalctl", "--no-pager", "-q", "-u", "llm2ws", *filters)


def ask(method: str, path: str, body: object = None, *, key: str = "", timeout: float = 60.0) -> tuple[int, bytes, str]:
    """Status, body, and the Date that the daemon believes in."""
    connection = http.client.HTTPConnection("127.0.0.1", 8765, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Date"]
    finally:
        connection.close()


def speaks(key: str = "") -> None:
    """It says something: a WAV of about as long as the words take."""
    body = {"model": "tts-1", "voice": "alloy", "input": "Hello from the service.", "response_format": "wav"}
    status, audio, _ = ask("POST", "/v1/audio/speech", body, key=key)
    expect("the answer to /v1/audio/speech", (status, audio[:4]), (200, b"RIFF"))
    expect("between one and four seconds of speech", 48_000 < len(audio) < 192_000)


def waits_or_is_told() -> None:
    """Who comes in the midst of a restart has to wait, who came just before may be told to ask again. Nobody is refused."""
    try:
        status = ask("GET", "/v1/models")[0]
    except (http.client.RemoteDisconnected, ConnectionResetError):  # its connection had just been accepted
        return
    expect("served, or told to ask again", status in (200, 503))


def ready() -> bool:
    return ask("GET", "/readyz")[0] == 200


class Listener(threading.Thread):
    """A client that listens to a long answer; `done` when it has heard the end of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.begun = threading.Event()
        self.events = b""

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", 8765, timeout=120)
        connection.request("POST", "/chat?audio=1", json.dumps({"prompt": TEXT}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        while part := answer.read1():
            self.events += part
            if b"event: audio" in self.events:
                self.begun.set()
        connection.close()

    def listening(self) -> Listener:
        self.start()
        if not self.begun.wait(30):
            raise Wrong("no audio came")
        return self

    def heard_all(self) -> None:
        self.join(120)
        said = "".join(json.loads(data)["delta"] for data in re.findall(rb"event: text\ndata: (.*)\n", self.events))
        last = self.events.strip().rpartition(b"\n\n")[2]
        expect("the text that came", said.strip(), TEXT.strip())
        expect(
            "the outcome", (last.split(b"\n")[0], json.loads(last.partition(b"data: ")[2])["outcome"]), (b"event: done", "done")
        )


@contextmanager
def drop_in(text: str, unit: str = "llm2ws.service") -> Iterator[None]:
    """With these lines in the unit, and the service started anew with them."""
    file = Path(f"/etc/systemd/system/{unit}.d/try.conf")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    systemctl("daemon-reload")
    systemctl("restart", unit)
    try:
        yield
    finally:
        file.unlink()
        file.parent.rmdir()
        systemctl("daemon-reload")
        systemctl("restart", unit)


@contextmanager
def settings(text: str) -> Iterator[None]:
    before = SETTINGS.read_text()
    SETTINGS.write_text(text)
    try:
        yield
    finally:
        SETTINGS.write_text(before)
        systemctl("restart", "llm2ws.service")


def files() -> set[str]:
    """Every file of the system, without what it writes by itself."""
    found = set()
    for folder, names, leaves in os.walk("/"):
        here = Path(folder)
        names[:] = [name for name in names if os.lstat(here / name).st_dev == os.lstat("/").st_dev and name != "__pycache__"]
        if folder == "/":
            names[:] = [name for name in names if name not in ("tmp", "run")]
        if folder == "/var":
            names[:] = [name for name in names if name not in ("cache", "log", "tmp")]
        found |= {str(here / name) for name in (*names, *leaves)}
    return found


# --- what is to be shown ----------------------------------------------------------------------------------------------------


def it_is_installed_as_the_readme_says() -> None:
    (block,) = re.findall(r"^```sh\n(sudo .*?)^```$", (INSTALL.parents[1] / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    folder = Path("/tmp/clone")
    folder.mkdir()
    (folder / "scripts").symlink_to(INSTALL.parent)
    # root needs no sudo, and edits without an editor.
    edits = """sudoedit() { printf '[speech.deepgram]\\napi_key_file = "deepgram"\\nurl = "ws://127.0.0.1:9"\\n' >>"$1"; }"""
    said = sh("sh", "-euc", f'cd {folder}; DEEPGRAM_API_KEY={FIRST}; sudo() {{ "$@"; }}; {edits}\n{block}')
    expect("it says that it runs", "installed and started" in said)
    expect("speech", (folder / "service.wav").stat().st_size > 4_000)
    until("the key has been read", lambda: "settings were reloaded" in log("-n", "5"))
    sh("rm", "-r", folder, KEYS / "deepgram", SETTINGS)
    sh(INSTALL)
    systemctl("restart", "llm2ws.service")
    for name, value in {"ActiveState": "active", "UnitFileState": "enabled", "Result": "success"}.items():
        expect(name, show(name), value)
    expect("the status", show("StatusText").startswith("listening on http://127.0.0.1:8765; 0 conversations"))
    expect("systemd-analyze verify", sh("systemd-analyze", "verify", *Path("/usr/local/lib/systemd/system").iterdir()), "")


def it_is_installed_again_and_edited_settings_are_kept() -> None:
    pid, edited = show("MainPID"), SETTINGS.read_text().replace("# drain_s = 30.0", "drain_s = 29.0")
    SETTINGS.write_text(edited)
    expect("it says so", "nothing has changed" in sh(INSTALL))
    expect("the process", show("MainPID"), pid)
    expect("the settings", SETTINGS.read_text(), edited)


def it_has_no_rights() -> None:
    status = Path("/proc", show("MainPID"), "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    expect("the user is no fixed one", 61184 <= int(fields["Uid"].split()[0]) <= 65519)
    expect("capabilities", (fields["CapEff"], fields["CapBnd"], fields["NoNewPrivs"]), ("0" * 16, "0" * 16, "1"))
    exposure = sh("systemd-analyze", "security", "--no-pager", "llm2ws.service").splitlines()[-1]
    expect(f"an exposure of at most 1.5: {exposure}", float(re.findall(r"\d\.\d", exposure)[0]) <= 1.5)


def it_speaks() -> None:
    speaks()
    out = Path("/tmp/said.wav")
    sh("llm2ws", "say", "Hello through the service.", "--speech", "ws://127.0.0.1:8765", "-o", out)
    expect("a second of speech", out.stat().st_size > 48_000)
    out.unlink()


def the_journal_has_fields() -> None:
    entries = [json.loads(line) for line in log("-o", "json", "LLM2WS_LOGGER=llm2ws.turn").splitlines()]
    expect("turns are there", len(entries) >= 2)
    expect("priority and name", (entries[0]["PRIORITY"], entries[0]["SYSLOG_IDENTIFIER"]), ("6", "llm2ws"))
    turn = entries[0]["LLM2WS_TURN"]
    expect("found by its id", "outcome=done" in log(f"LLM2WS_TURN={turn}"))
    expect("nothing worse than a warning", log("-p", "err"), "")


def a_blocked_loop_is_ended_and_comes_back() -> None:
    (OWN / "sitecustomize.py").write_text(BLOCK)
    with drop_in(f"[Service]\nEnvironment=PYTHONPATH={OWN}\nWatchdogSec=4s\n"):
        pid = show("MainPID")
        systemctl("kill", "--kill-who=main", "--signal=USR1", "llm2ws.service")
        until("it was started again", lambda: show("NRestarts") == "1" and show("ActiveState") == "active")
        expect("another process", show("MainPID") != pid)
        expect("the journal says why", "Watchdog timeout" in log("-n", "60"))
        expect("and where", "sitecustomize.py" in log("-n", "60"))
        speaks()
        # Fed by a loop that is not blocked, it lives for much longer than the watchdog's time.
        pid = show("MainPID")
        time.sleep(6)
        expect("the same process", (show("MainPID"), show("NRestarts")), (pid, "1"))


def stopping_lets_a_turn_finish() -> None:
    with drop_in("[Service]\nTimeoutStopSec=1s\n"):  # which is less than the turn takes: the daemon asks for more
        listener = Listener().listening()
        systemctl("stop", "llm2ws.service")
        expect("it was stopped in the middle", "conversations in progress: 1" in log("-n", "10"))
        listener.heard_all()
        expect("the end", (show("Result"), show("ExecMainStatus"), show("ActiveState")), ("success", "0", "inactive"))


def a_socket_serves_the_client_that_waits() -> None:
    systemctl("stop", "llm2ws.service")
    systemctl("start", "llm2ws.socket")
    expect("nothing runs", show("ActiveState"), "inactive")
    speaks()  # which waits until the service, started by this connection, answers
    expect("it was started", (show("ActiveState"), show("TriggeredBy")), ("active", "llm2ws.socket"))
    restarting = threading.Thread(target=systemctl, args=("restart", "llm2ws.service"))
    pid = show("MainPID")
    restarting.start()
    while restarting.is_alive():
        waits_or_is_told()
    speaks()
    expect("another process", show("MainPID") != pid)
    systemctl("stop", "llm2ws.service", "llm2ws.socket")
    systemctl("start", "llm2ws.service")


def keys_are_changed_while_it_runs() -> None:
    (KEYS / "client").write_text(f"{FIRST}\n")
    (KEYS / "client").chmod(0o600)
    with settings('[[server.keys]]\nname = "one"\nkey_file = "client"\n'):
        systemctl("restart", "llm2ws.service")
        expect("no key, the key", [ask("GET", "/v1/models", key=key)[0] for key in ("", FIRST)], [401, 200])
        pid = show("MainPID")
        (KEYS / "client").write_text(f"{SECOND}\n")
        expect("before it is told", ask("GET", "/v1/models", key=SECOND)[0], 401)
        systemctl("reload", "llm2ws.service")
        until("the new key opens", lambda: ask("GET", "/v1/models", key=SECOND)[0] == 200)
        expect("the old one does not", ask("GET", "/v1/models", key=FIRST)[0], 401)
        speaks(SECOND)
        (KEYS / "client").unlink()
        systemctl("reload", "llm2ws.service")
        until("a reload that cannot be is seen", lambda: "settings were not reloaded: key file client" in show("StatusText"))
        expect("the key still opens", ask("GET", "/v1/models", key=SECOND)[0], 200)
        expect("the process", show("MainPID"), pid)
    journal = sh("journalctl", "--no-pager", "-q")
    expect("no key in the journal", FIRST not in journal and SECOND not in journal)


def the_endpoint_may_come_later() -> None:
    with settings('[speech.own]\nurl = "ws://127.0.0.1:8766"\n'):
        systemctl("restart", "llm2ws.service")
        expect("it runs, and is not ready", (show("ActiveState"), ready()), ("active", False))
        systemctl("start", "llm2ws-speech.service")
        until("it is ready", ready)
        speaks()
        systemctl("stop", "llm2ws-speech.service")


def the_clock_is_set_back_a_day() -> None:
    """The service's own view of it: the machine's clock is not this container's."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    clock = OWN / "clock"
    clock.write_text("+0\n")
    fake = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": clock,
        "FAKETIME_NO_CACHE": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        "FAKETIME_DISABLE_SHM": 1,
    }
    lines = "".join(f"Environment={name}={value}\n" for name, value in fake.items())

    def off_s() -> float:
        return parsedate_to_datetime(ask("GET", "/healthz")[2]).timestamp() - time.time()

    with drop_in(f"[Service]\n{lines}WatchdogSec=4s\n"):
        pid = show("MainPID")
        expect("the clock is right", abs(off_s()) < 5)
        listener = Listener().listening()
        clock.write_text(f"-{DAY_S}\n")
        until("the clock is a day behind", lambda: abs(off_s() + DAY_S) < 5)
        listener.heard_all()
        speaks()
        time.sleep(6)
        expect("the same process", (show("MainPID"), show("NRestarts"), ready()), (pid, "0", True))
        clock.write_text("+0\n")
        until("the clock is right again", lambda: abs(off_s()) < 5)
        speaks()


def wrong_settings_are_said_once() -> None:
    right = SETTINGS.read_text()
    with settings("[server]\nlisen = 1\n"):
        sh("systemctl", "restart", "llm2ws.service", ok=(1,))
        expect("it failed, and stays so", (show("ActiveState"), show("NRestarts")), ("failed", "0"))
        expect("the journal says why", "did you mean server.listen?" in log("-n", "20"))
        SETTINGS.write_text(right)
        sh(INSTALL)
        expect("mended and installed again, it runs", show("ActiveState"), "active")


def uninstalled_it_leaves_settings_and_keys(before: set[str]) -> None:
    (KEYS / "deepgram").write_text("kept\n")
    sh(INSTALL, "--uninstall")
    left = {name for name in files() - before if not name.startswith("/etc/llm2ws")}
    expect("what is left", left, set())
    expect("the settings", {path.name for path in SETTINGS.parent.iterdir()}, {"keys", "llm2ws.toml"})
    expect("units", sh("systemctl", "list-units", "--all", "--no-legend", "llm2ws*"), "")
    expect("the working folder is gone", not Path("/run/llm2ws").exists())


def installed_again_it_has_them_and_purged_nothing_is_left(before: set[str]) -> None:
    sh(INSTALL)
    expect("the settings", "drain_s = 29.0" in SETTINGS.read_text())
    expect("the key", (KEYS / "deepgram").read_text(), "kept\n")
    speaks()
    edited = Path("/etc/systemd/system/llm2ws.service.d/override.conf")  # of `systemctl edit`
    edited.parent.mkdir()
    edited.write_text("[Service]\nNice=-5\n")
    sh(INSTALL, "--purge")
    expect("what is left", files() - before, set())


def main() -> int:
    OWN.mkdir(exist_ok=True)
    before = files()
    points: tuple[Callable[[], None], ...] = (
        it_is_installed_as_the_readme_says,
        it_is_installed_again_and_edited_settings_are_kept,
        it_has_no_rights,
        it_speaks,
        the_journal_has_fields,
        a_blocked_loop_is_ended_and_comes_back,
        stopping_lets_a_turn_finish,
        a_socket_serves_the_client_that_waits,
        keys_are_changed_while_it_runs,
        the_endpoint_may_come_later,
        the_clock_is_set_back_a_day,
        wrong_settings_are_said_once,
        lambda: uninstalled_it_leaves_settings_and_keys(before),
        lambda: installed_again_it_has_them_and_purged_nothing_is_left(before),
    )
    for point in points:
        name = point.__name__ if point.__name__ != "<lambda>" else point.__code__.co_names[0]
        began = time.monotonic()
        sh("systemctl", "reset-failed")  # or systemd would count these starts as a crash that goes on and on
        try:
            point()
        except (Wrong, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as exc:
            print(f"FAILED  {name.replace('_', ' ')}: {type(exc).__name__}: {exc}\n")
            print(sh("journalctl", "--no-pager", "-q", "-n", "40", "-u", "llm2ws*"))
            return 1
        print(f"ok      {name.replace('_', ' ')} ({time.monotonic() - began:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
