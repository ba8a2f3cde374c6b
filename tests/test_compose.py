"""What the container files promise, read from them: the tests of the real thing are in test_docker.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm2ws.settings import loading as config
from llm2ws.settings.loading import vendor_variables
from llm2ws.settings.schema import describe
from tests.support import ROOT, child_environment

TEXT = (ROOT / "docker-compose.yml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
DAEMONS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()

# What compose 1.29 knows of a service, and version 2 knows still: of all that there is, what is in use.
KNOWN = {
    *("build", "cap_drop", "depends_on", "environment", "extra_hosts", "image", "logging", "mem_limit", "pids_limit", "ports"),
    *("profiles", "read_only", "restart", "security_opt", "stop_grace_period", "stop_signal", "tmpfs", "volumes"),
}

every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_only_what_both_versions_of_compose_know(name: str) -> None:
    assert set(SERVICES[name]) <= KNOWN
    assert set(STACK) <= {"services", "volumes", *(key for key in STACK if key.startswith("x-"))}


@every_service
def test_a_service_is_confined_and_survives_the_night(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not service.get("privileged")


@every_service
def test_what_is_published_is_published_on_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT:-\d+\}:\d+", port)


@every_service
def test_images_have_versions(name: str) -> None:
    assert re.fullmatch(r"[a-z/0-9]+:v?\d+\.\d+[a-z0-9.-]*", SERVICES[name]["image"])


@every_service
def test_what_is_mounted_is_in_the_repository_and_cannot_be_written(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, mode = re.fullmatch(r"([^:]+):([^:]+):?(ro)?", volume).groups()  # type: ignore[union-attr]
        if source not in STACK["volumes"]:
            assert (ROOT / source).exists(), source
            assert mode == "ro"


def test_what_starts_by_default_is_one_daemon_and_the_rest_has_a_profile() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert [name for name, of in profiles.items() if not of] == ["llm2ws"]
    assert [name for name, of in profiles.items() if of == ["scale"]] == ["llm2ws-2", "llm2ws-3", "balancer"]
    assert [name for name, of in profiles.items() if of == ["monitoring"]] == ["prometheus", "grafana"]


def test_nothing_has_to_be_there_for_the_default_stack() -> None:
    """Every variable has a default, and no service names a file that the repository has not."""
    assert set(re.findall(r"\$\{\w+(.?.?)", TEXT)) == {":-"}
    assert "env_file" not in TEXT
    assert "secrets" not in STACK
    assert (ROOT / "secrets" / ".gitignore").read_text().splitlines()[-2:] == ["*", "!.gitignore"]


def test_the_daemons_differ_in_name_and_port_only() -> None:
    assert DAEMONS == ["llm2ws", "llm2ws-2", "llm2ws-3"]
    same = [{key: value for key, value in SERVICES[name].items() if key not in ("ports", "profiles")} for name in DAEMONS]
    assert same[0] == same[1] == same[2]


def default(value: str) -> str:
    """What is given when no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_the_default_stack_asks_for_no_key_and_still_looks_at_hosts_and_origins() -> None:
    environ = {name: default(value) for name, value in SERVICES["llm2ws"]["environment"].items()}

    server = config.load(environ=environ, config=str(ROOT / "config" / "container.toml")).settings.server

    assert server.insecure
    assert server.keys == ()
    assert server.hosts == ("localhost", *DAEMONS)
    assert server.origins == ()
    assert server.replicas == 1
    before = TEXT.partition("LLM2WS_SERVER__INSECURE")[0].splitlines()[-4:]
    assert any("published on this machine only" in line for line in before if line.lstrip().startswith("#"))


@pytest.mark.parametrize(("name", "most_s"), [("container.toml", 10), ("container-keys.toml", 10)])
def test_the_images_settings_end_in_the_time_that_docker_gives(name: str, most_s: float) -> None:
    server = config.load(environ={}, config=str(ROOT / "config" / name)).settings.server
    assert server.drain_s + 2 < most_s  # clients get 2 s to take what they are told
    assert [key.key_file for key in server.keys] == (["/run/secrets/app.key"] if "keys" in name else [])
    assert f"COPY config/{name} /etc/llm2ws/{'keys' if 'keys' in name else 'llm2ws'}.toml" in DOCKERFILE


def test_the_stack_stops_later_than_its_daemons_drain() -> None:
    drain_s = float(SERVICES["llm2ws"]["environment"]["LLM2WS_SERVER__DRAIN_S"])
    grace_s = {name: float(SERVICES[name]["stop_grace_period"].removesuffix("s")) for name in ("llm2ws", "balancer")}
    assert drain_s + 10 <= grace_s["llm2ws"] <= grace_s["balancer"]


def test_the_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {SERVICES[name]["image"] for name in DAEMONS} == {f"llm2ws:{version}"}
    assert f"ARG VERSION={version}\n" in DOCKERFILE
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base
    assert SERVICES["llm2ws"]["build"]["args"]["BASE"] == f"${{BASE_IMAGE:-{base[1]}}}"


def test_what_env_example_shows_reaches_the_daemon(tmp_path: Path) -> None:
    """The stack passes on what it names, and nothing else; what it names is a setting."""
    passed = SERVICES["llm2ws"]["environment"]
    shown = set(re.findall(r"^#([A-Z_0-9]+)=", EXAMPLE, re.MULTILINE))
    of_compose = {name for name in re.findall(r"\$\{(\w+)", TEXT) if name not in passed} | {"COMPOSE_PROFILES"}

    assert shown <= set(passed) | of_compose
    assert set(vendor_variables()) <= set(passed)
    for name, value in passed.items():
        assert value == f"${{{name}:-}}" or name in EXAMPLE or not value.startswith("$"), name
    # Any value will do to see that each of them is known; what one sets is tested elsewhere.
    for name in set(passed) - set(vendor_variables()) - {"LLM2WS_CONFIG"}:
        (path,) = [tuple(name.removeprefix("LLM2WS_").lower().split("__"))]
        assert describe(path), name


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("llm2ws/command/cli.py", True),
        ("requirements.lock", True),
        ("config/container.toml", True),
        (".env", False),
        (".git/config", False),
        ("secrets/app.key", False),
        ("config/llm2ws.toml", False),
        ("tests/test_compose.py", False),
    ],
)
def test_the_builder_gets_what_it_copies_and_no_secret(path: str, sent: bool) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(fnmatch(str(part), bare) for part in (Path(path), *Path(path).parents[:-1])):
            ignored = not pattern.startswith("!")
    assert ignored != sent


def test_every_file_that_the_image_copies_is_sent_to_the_builder() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [name for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    assert len(copied) >= 7
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern[1:]) for pattern in patterns if pattern.startswith("!")), name


def test_the_image_runs_as_nobody_and_is_looked_after() -> None:
    assert re.search(r"^USER \d{4,}:\d{4,}$", DOCKERFILE, re.MULTILINE)
    assert "HEALTHCHECK" in DOCKERFILE
    assert "--require-hashes -r /src/requirements.lock" in DOCKERFILE
    for label in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in DOCKERFILE
    # Commands in the form that reaches the process itself: a shell would not pass SIGTERM on.
    for line in re.findall(r"^(?:ENTRYPOINT|CMD) (.+)$", DOCKERFILE, re.MULTILINE):
        assert all(isinstance(word, str) for word in json.loads(line))


@pytest.mark.parametrize("profile", ["", "monitoring", "scale"])
@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs: docker-compose")
def test_compose_takes_it(tmp_path: Path, profile: str) -> None:
    """In an empty environment, without an engine."""
    command = ["docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--services"]
    done = subprocess.run(
        command, env=child_environment({"COMPOSE_PROFILES": profile}), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wanted = {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}
    assert wanted <= set(done.stdout.split())  # version 1.29 lists those of other profiles as well


@pytest.mark.install
@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_has_a_wheel_for_the_image(tmp_path: Path, machine: str) -> None:
    """There is no compiler in it. Nothing is downloaded but what describes the packages."""
    version = re.search(r"^ARG BASE=python:(\d\.\d+)-", DOCKERFILE, re.MULTILINE)
    assert version
    command = [
        *(sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-config", "--only-binary", ":all:"),
        *("--python-platform", f"{machine}-unknown-linux-gnu", "--python-version", version[1]),
        *("--target", str(tmp_path / "site"), "--require-hashes", "-r", str(ROOT / "requirements.lock")),
    ]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = set(re.findall(r"^ \+ ([a-z0-9-]+)==", done.stderr, re.MULTILINE))
    assert {"numpy", "soxr", "espeakng-loader", "lameenc", "uvloop", "aiohttp"} <= wanted
    assert ("miniaudio" in wanted) == (machine == "x86_64")
