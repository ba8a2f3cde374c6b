"""What systemd is told, and what it passes: a datagram socket and sockets as it opens them, processes that live by them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from llm2ws.errors import ConfigError
from llm2ws.server import notify
from llm2ws.server.run import running
from llm2ws.settings.fields import Settings
from tests.server.processes import process
from tests.server.test_chat import SPOKEN, heard, sdk
from tests.support import MS, assert_no_canary, child_environment, start


class Manager:
    """The end of the datagram socket that systemd has."""

    def __init__(self, address: str | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(20_000 * MS)
        self.socket.bind(address)

    def told(self) -> list[str]:
        """The next message, a line each."""
        return self.socket.recv(65_536).decode().split("\n")

    def until(self, line: str) -> list[str]:
        """All lines up to this one, or to one that begins with it."""
        lines: list[str] = []
        while not any(found.startswith(line) for found in lines):
            lines += self.told()
        return lines


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(str(tmp_path / "notify"))
    yield one
    one.socket.close()


def test_a_message_is_a_datagram_of_lines(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify.tell(READY=1, STATUS="two\nlines are\tone")
    assert manager.told() == ["READY=1", "STATUS=two lines are one"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: addresses without a file")
def test_an_address_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"llm2ws-test-{os.getpid()}"
    one = Manager(b"\0" + name.encode())
    try:
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.tell(STOPPING=1)
        assert one.told() == ["STOPPING=1"]
    finally:
        one.socket.close()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/at/all"])
def test_where_nobody_listens_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.tell(READY=1)


def test_a_manager_that_takes_nothing_does_not_hold_up_for_ever(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr("llm2ws.server.notify._SEND_S", 0.001)
    kept = Path("/proc/sys/net/unix/max_dgram_qlen")
    for n in range(int(kept.read_text()) + 20 if kept.exists() else 1_000):  # more than the kernel keeps for it
        notify.tell(STATUS=n)
    assert manager.told() == ["STATUS=0"]


# --- the watchdog -----------------------------------------------------------------------------------------------------------

# Beside the feeding, a callback that holds up the loop for many times as long as the watchdog's interval, and says so.
BLOCKING = """
import asyncio, time
from llm2ws.server import notify

def block():
    notify.tell(BLOCKED=1)
    time.sleep(0.5)
    notify.tell(FREE=1)

async def main():
    asyncio.get_running_loop().call_later(0.2, block)
    await notify.feed(lambda: "as it is")

asyncio.run(main())
"""


@contextmanager
def child(code: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-P", "-c", code], env=child_environment(env)) as one:
        try:
            yield one
        finally:
            one.kill()


def test_a_blocked_loop_does_not_feed_the_watchdog(manager: Manager, tmp_path: Path) -> None:
    with child(BLOCKING, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="30000"):
        before = manager.until("BLOCKED=1")
        blocked = manager.until("FREE=1")
        after = [manager.told() for _ in range(3)]

    assert before[:2] == ["WATCHDOG=1", "STATUS=as it is"]
    assert before.count("WATCHDOG=1") > 2
    assert before.count("STATUS=as it is") == 1
    assert blocked == ["FREE=1"]
    assert after == [["WATCHDOG=1"]] * 3


async def told_by_feed(manager: Manager, **env: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NOTIFY_SOCKET": manager.socket.getsockname(), **env}.items():
            patch.setenv(name, value)
        feeding = asyncio.create_task(notify.feed(lambda: "as it is"))
        try:
            return await asyncio.to_thread(manager.told)
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])


@pytest.mark.parametrize(
    ("env", "fed"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "2000000"}, True),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, False),  # that of the process that started this one
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
async def test_who_is_watched(manager: Manager, env: dict[str, str], fed: bool) -> None:
    assert await told_by_feed(manager, **env) == ["WATCHDOG=1"] * fed + ["STATUS=as it is"]


# --- the commands -----------------------------------------------------------------------------------------------------------


async def test_the_daemon_tells_what_it_does(manager: Manager, tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"}
    async with process(tmp_path, env=env) as daemon, sdk(daemon) as client:
        lines = await asyncio.to_thread(manager.until, "READY=1")
        lines += await asyncio.to_thread(manager.told)
        assert "STATUS=starting" in lines
        assert f"STATUS=listening on {daemon.url}; 0 conversations, 0 speaking" in lines
        assert "WATCHDOG=1" in lines
        config = (tmp_path / "llm2ws.toml").read_text()

        for text, wrong in ((config, ""), ("[server\n", "; settings were not reloaded: "), (config, "")):
            (tmp_path / "llm2ws.toml").write_text(text)
            daemon.signal(signal.SIGHUP)
            lines = await asyncio.to_thread(manager.until, "RELOADING=1")
            lines += await asyncio.to_thread(manager.until, "READY=1")
            lines = lines[lines.index("RELOADING=1") :]
            assert lines[1].startswith("MONOTONIC_USEC=")
            assert lines[-2] == "READY=1"
            assert lines[-1].startswith(f"STATUS=listening on {daemon.url}; 0 conversations, 0 speaking{wrong}")

        await heard(await client.chat.completions.create(**SPOKEN, stream=True))
        daemon.signal(signal.SIGTERM)
        lines = await asyncio.to_thread(manager.until, "STOPPING=1")
        assert lines[-1] == "EXTEND_TIMEOUT_USEC=40000000"  # drain_s and what comes after it
        assert await daemon.code() == 0


async def test_the_speech_server_tells_what_it_does(manager: Manager, tmp_path: Path) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"}
    server = start(["speech-server", "--listen", "127.0.0.1:0"], cwd=tmp_path, env=env)
    try:
        lines = await asyncio.to_thread(manager.until, "READY=1")
        lines += await asyncio.to_thread(manager.until, "STATUS=listening on ws://127.0.0.1:")
        assert "WATCHDOG=1" in lines
        server.terminate()
        assert "STOPPING=1" in await asyncio.to_thread(manager.until, "STOPPING=1")
        _, stderr = await asyncio.to_thread(server.communicate)
    finally:
        server.kill()
    assert server.returncode == 0
    assert_no_canary(stderr)
    assert b"Traceback" not in stderr


# --- sockets ----------------------------------------------------------------------------------------------------------------

# As systemd does it: the sockets from file descriptor 3 on, and the process that they are for.
PASSING = """
import os, sys
for at, fd in enumerate(sys.argv[1].split(","), 3):
    os.dup2(int(fd), at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(sys.argv[1].count(",") + 1), LISTEN_FDNAMES="llm2ws.socket")
os.execv(sys.executable, [sys.executable, "-P", *sys.argv[2:]])
"""


@asynccontextmanager
async def passed(folder: Path, *sockets: socket.socket, settings: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """`llm2ws serve`, which was given these sockets and echoes."""
    (folder / "s.toml").write_text(f'log = "info"\nlog_format = "json"\n{settings}')
    # From 10 on, so that none is in the way of those that are being made.
    fds = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, 10) for each in sockets]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PASSING, ",".join(map(str, fds)), "-m", "llm2ws", "serve", "--config", "s.toml"),
        cwd=folder,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=fds,
    )
    for fd in fds:
        os.close(fd)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def rest_of(child: asyncio.subprocess.Process) -> str:
    assert child.stderr is not None
    async with asyncio.timeout(20_000 * MS):
        return (await child.stderr.read()).decode()


async def test_a_client_that_came_first_is_served_by_the_daemon_that_comes_later(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (one, other)]
        async with aiohttp.ClientSession() as http:
            early = asyncio.create_task(http.get(f"http://127.0.0.1:{ports[0]}/healthz"))
            async with passed(tmp_path, one, other) as daemon:
                async with asyncio.timeout(20_000 * MS):
                    async with await early as answer:
                        assert answer.status == 200
                    async with http.get(f"http://127.0.0.1:{ports[1]}/healthz") as answer:
                        assert answer.status == 200
                    daemon.send_signal(signal.SIGHUP)  # the settings are read again, and the sockets still count
                    assert daemon.stderr is not None
                    seen = b""
                    while b"settings were reloaded" not in seen:
                        seen += await daemon.stderr.readline()
                    async with http.get(f"http://127.0.0.1:{ports[0]}/v1/models") as answer:
                        assert answer.status == 200
                    daemon.terminate()
                    seen += (await rest_of(daemon)).encode()
                    assert await daemon.wait() == 0
            assert f"listening on http://127.0.0.1:{ports[0]}".encode() in seen
            assert b"server.listen 127.0.0.1:8765 is not used" in seen
            assert b"is taken at the next start" not in seen
            # systemd still listens: whoever comes now waits for the next daemon, and is not refused.
            _, writer = await asyncio.open_connection("127.0.0.1", ports[0])
            writer.close()
            await writer.wait_closed()


async def test_a_socket_for_other_machines_asks_for_keys_whatever_the_settings_say(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        async with passed(tmp_path, near, far, settings='[server]\nlisten = "127.0.0.1:1"\n') as daemon:
            said = await rest_of(daemon)
            assert await daemon.wait() == 2
        assert f"server.listen 0.0.0.0:{far.getsockname()[1]}: other machines could use it without a key" in said


async def test_a_socket_that_is_not_tcp(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        one.listen()
        with pytest.raises(ConfigError, match="not TCP"):
            async with running(Settings(), [one]):
                pass


@pytest.mark.parametrize(
    "env", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}]
)
def test_sockets_that_are_not_for_this_process_are_left_alone(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert notify.passed_sockets() == []
    assert not {name for name in os.environ if name.startswith("LISTEN_")}
