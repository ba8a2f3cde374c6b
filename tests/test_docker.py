"""The image and the stack in a real Docker engine: `scripts/try_docker` brings one where there is none.

BASE_IMAGE and BALANCER_IMAGE stand in for those of the Dockerfile and of docker-compose.yml where these cannot be had.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.replicas import (
    assert_a_burst_is_served,
    assert_a_drained_one_loses_no_call,
    assert_idle_clients_come_back,
    call,
    speak,
)
from tests.support import MS, ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

IMAGE = "llm2ws-test"
BASE = os.environ.get("BASE_IMAGE", "python:3.13-slim")
BALANCER = os.environ.get("BALANCER_IMAGE", "haproxy:3.2-alpine")
HAPROXY = ["haproxy", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
REPLICAS = ("llm2ws", "llm2ws-2", "llm2ws-3")
MIB = 1024 * 1024


def docker(*args: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return (done.stdout + done.stderr).strip()


def inspect(name: str, path: str) -> str:
    return docker("inspect", "--format", f"{{{{{path}}}}}", name)


def compose_command() -> list[str]:
    """Version 2 is a part of `docker`, version 1.29 a command of its own."""
    plugin = ["docker", "compose"]
    if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
        return plugin
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("needs: docker compose")


def pulled(image: str) -> None:
    """Have it, or skip."""
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
        try:
            subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=True, timeout=120_000 * MS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip(f"needs: the image {image}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built once, however many processes run these tests."""
    compose_command()
    pulled(BASE)
    with (tmp_path_factory.getbasetemp().parent / "docker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        docker("build", "--quiet", "--build-arg", f"BASE={BASE}", "--tag", IMAGE, str(ROOT))
    return IMAGE


class Stack:
    """docker-compose.yml with our own image, under a name and on ports of its own."""

    def __init__(self, folder: Path, changes: dict[str, object], **environ: str) -> None:
        self.project = f"llm2wstest{os.getpid()}"
        self.port, self.balancer = free_port(), free_port()
        override = folder / "override.json"  # JSON is YAML
        override.write_text(json.dumps({"services": changes}))
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(override))
        nothing = folder / "empty.env"  # keys of whoever runs this stay out of it
        nothing.touch()
        where = ("--project-directory", str(ROOT), "--env-file", str(nothing))
        self._command = [*compose_command(), "-p", self.project, *where, *files]
        self._environ = {**os.environ, "DAEMON_PORT": str(self.port), "BALANCER_PORT": str(self.balancer), **environ}

    def __call__(self, *args: str) -> str:
        done = subprocess.run([*self._command, *args], env=self._environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def shell(self, script: str, folder: Path) -> None:
        """Commands for people, on this stack."""
        (folder / "bin").mkdir()
        path = f"PATH={shlex.quote(os.environ['PATH'])}"
        docker = folder / "bin" / "docker"
        docker.write_text(
            f'#!/bin/sh\nif [ "$1" != compose ]; then {path} exec docker "$@"; fi\n'
            f'shift\n{path} exec {shlex.join(self._command)} "$@"\n'
        )
        docker.chmod(0o755)
        environ = {**self._environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-euc", script], cwd=folder, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def container(self, service: str) -> str:
        return self("ps", "-q", service)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def up(tmp_path: Path, image: str) -> Iterator[list[Stack]]:
    """Stacks that are put here are taken down."""
    stacks: list[Stack] = []
    yield stacks
    for stack in stacks:
        stack("down", "--volumes", "--timeout", "1")


async def healthy(container: str) -> None:
    """Wait until Docker says so."""
    filters = ("--filter", f"container={container}", "--filter", "event=health_status")
    child = await asyncio.create_subprocess_exec(
        *("docker", "events", "--since", "10m", *filters, "--format", "{{.Status}}"), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60_000 * MS):
            assert (await child.stdout.readline()).decode().strip() == "health_status: healthy"
    finally:
        child.terminate()
        await child.communicate()


def test_the_commands_of_the_readme(tmp_path: Path, up: list[Stack]) -> None:
    stack = Stack(tmp_path, {name: {"image": IMAGE} for name in REPLICAS}, BASE_IMAGE=BASE)
    up.append(stack)
    readme = (ROOT / "README.md").read_text()
    (block,) = [
        text for text in re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL) if text.startswith("docker")
    ]

    stack.shell(block.replace("8765", str(stack.port)), tmp_path)

    assert (tmp_path / "hello.mp3").stat().st_size > 1_000
    assert stack("ps", "-q", "balancer", "prometheus", "grafana") == ""


async def test_the_default_stack_speaks_confined_and_is_stopped_without_loss(tmp_path: Path, up: list[Stack]) -> None:
    often = {"interval": "1s"}
    stack = Stack(tmp_path, {name: {"image": IMAGE, "healthcheck": often} for name in REPLICAS})
    up.append(stack)
    await asyncio.to_thread(stack, "up", "-d", "--no-build")
    container = stack.container("llm2ws")
    await healthy(container)

    assert inspect(container, ".HostConfig.ReadonlyRootfs") == "true"
    assert inspect(container, "json .HostConfig.PortBindings") == (
        f'{{"8765/tcp":[{{"HostIp":"127.0.0.1","HostPort":"{stack.port}"}}]}}'
    )
    assert int(inspect(container, ".HostConfig.Memory")) == 256 * MIB
    status = docker("exec", container, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t10001\t" in status
    assert "Read-only file system" in docker("exec", container, "touch", "/venv/x", check=False)

    async with aiohttp.ClientSession(stack.url) as http:
        assert await speak(http) == 200
        async with http.get("/healthz", headers={"Host": "evil.example"}) as response:
            assert response.status == 421
        async with http.post("/chat", json={"prompt": "x"}, headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403
        await assert_a_burst_is_served(stack.url)
        async with call(http, 90) as rest:
            stopping = asyncio.create_task(asyncio.to_thread(docker, "stop", container))
            assert await rest() == ("done", "")
            await stopping
    assert docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", container) == "0 false"


@asynccontextmanager
async def running(*args: str) -> AsyncIterator[tuple[str, str]]:
    """A container of the image alone, once it listens: its id, and its address."""
    port = free_port()
    publish = ("-p", f"127.0.0.1:{port}:8765")
    container = docker("run", "-d", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", *publish, *args, IMAGE)
    try:
        await logged(container, "listening on")
        yield container, f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "--force", container)


async def logged(container: str, text: str, since: float = 0) -> None:
    """Wait until it is in the log. `since`: seconds since 1970."""
    child = await asyncio.create_subprocess_exec(
        *("docker", "logs", "--follow", "--since", f"{since:.3f}", container),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(20_000 * MS):
            while line := await child.stdout.readline():
                if text.encode() in line:
                    return
        pytest.fail(f"{text!r} is not in the log: {docker('logs', container)}")
    finally:
        if child.returncode is None:
            child.terminate()
        await child.communicate()


async def test_the_image_alone_is_stopped_in_time_and_tells_its_clients(image: str) -> None:
    async with running("-e", "LLM2WS_SERVER__INSECURE=true") as (container, url), aiohttp.ClientSession(url) as http:
        async with call(http, 3_000) as rest:
            stopping = asyncio.create_task(asyncio.to_thread(docker, "stop", container))
            assert await rest() == ("shutdown", "")
            await stopping
        assert inspect(container, ".State.ExitCode") == "0"


async def test_a_key_file_is_exchanged_while_it_runs(tmp_path: Path, image: str) -> None:
    one, other = "first-key-of-the-app", "second-key-of-the-app"
    tmp_path.chmod(0o755)
    (tmp_path / "app.key").write_text(one)

    async def status(http: aiohttp.ClientSession, key: str) -> int:
        async with http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}) as response:
            return response.status

    args = ("-v", f"{tmp_path}:/run/secrets:ro", "-e", "LLM2WS_CONFIG=/etc/llm2ws/keys.toml")
    async with running(*args) as (container, url), aiohttp.ClientSession(url) as http:
        assert [await status(http, key) for key in (one, other, "")] == [200, 401, 401]
        (tmp_path / "app.key").write_text(other)
        docker("kill", "--signal", "HUP", container)
        await logged(container, "settings were reloaded")
        assert [await status(http, key) for key in (one, other)] == [401, 200]


def test_without_a_key_it_serves_nobody_else(image: str) -> None:
    said = docker("run", "--rm", IMAGE, check=False)
    assert "other machines could use it without a key: set [[server.keys]], or server.insecure = true" in said


def test_what_is_in_the_image(image: str) -> None:
    size = int(inspect(IMAGE, ".Size")) - int(inspect(BASE, ".Size"))
    assert size < 200 * MIB, "README and docs/operations.md state its size"
    labels = json.loads(inspect(IMAGE, "json .Config.Labels"))
    assert labels["org.opencontainers.image.title"] == "llm2ws"
    code = (
        "import importlib.util, pathlib, sys; from importlib.metadata import version\n"
        "sources = list(pathlib.Path('/venv').rglob('*.py'))\n"
        "bare = [str(s) for s in sources if not pathlib.Path(importlib.util.cache_from_source(s)).exists()]\n"
        "print(version('llm2ws'), len(sources) > 1000, bare, importlib.util.find_spec('pip'))"
    )
    said = docker("run", "--rm", "--entrypoint", "python3", IMAGE, "-c", code)
    assert said == f"{labels['org.opencontainers.image.version']} True [] None"
    assert docker("run", "--rm", "--entrypoint", "find", IMAGE, "/venv", "/etc/llm2ws", "-user", "10001") == ""


async def test_three_replicas_share_an_endpoint_and_can_be_replaced(tmp_path: Path, up: list[Stack]) -> None:
    pulled(BALANCER)
    shared = {
        "LLM2WS_SPEECH__SHARED__URL": "ws://speech:8766",
        "LLM2WS_SPEECH__SHARED__CONNECTIONS": "5",
        "LLM2WS_SPEECH__SHARED__LIMITS__CHARS_PER_WINDOW": "1000000",
        "LLM2WS_SPEECH__SHARED__LIMITS__FLUSHES_PER_WINDOW": "1000000",
    }
    often = {"interval": "5s"}  # no oftener: the balancer, too, has to see that one is there again
    serve = ["speech-server", "--listen", "0.0.0.0:8766", "--insecure", "--max-connections", "5"]
    changes: dict[str, object] = {
        **{name: {"image": IMAGE, "environment": shared, "depends_on": ["speech"], "healthcheck": often} for name in REPLICAS},
        "speech": {"image": IMAGE, "command": serve},
        "balancer": {"image": BALANCER, "command": HAPROXY},
    }
    stack = Stack(tmp_path, changes, BASE_IMAGE=BASE, COMPOSE_PROFILES="scale", LLM2WS_SERVER__REPLICAS="3")
    up.append(stack)
    await asyncio.to_thread(stack, "up", "-d", "--no-build")
    async with asyncio.TaskGroup() as tasks:
        for name in REPLICAS:
            tasks.create_task(logged(stack.container(name), "listening on"))
    url = f"http://127.0.0.1:{stack.balancer}"
    page = (ROOT / "docs" / "operations.md").read_text()
    (upgrade,) = re.findall(r"^    for one in (?:.*\n)+?    done$", page, re.MULTILINE)

    async def replace_all() -> None:
        await asyncio.to_thread(stack.shell, upgrade, tmp_path)

    async def kill() -> None:
        await asyncio.to_thread(docker, "kill", stack.container("llm2ws-3"))

    await assert_a_burst_is_served(url)
    before = set(map(stack.container, REPLICAS))
    await assert_a_drained_one_loses_no_call(url, replace_all)
    assert before.isdisjoint(map(stack.container, REPLICAS))
    await assert_idle_clients_come_back(url, kill)
