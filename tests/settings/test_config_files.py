"""The files in config/, as the programs that read them see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.support import ROOT, repository_files

CONFIG = ROOT / "config"
STACK: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
HAPROXY = (CONFIG / "haproxy.cfg").read_text()

needs_haproxy = pytest.mark.skipif(not shutil.which("haproxy"), reason="needs: haproxy")
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs: promtool")


def test_every_file_is_named_by_what_tries_it() -> None:
    triers = ("tests/**/test_*.py", "scripts/try_*", "scripts/install")  # what is installed is tried as a whole
    tried = "".join(path.read_text() for pattern in triers for path in ROOT.glob(pattern))
    assert [path.name for path in repository_files() if path.parent == CONFIG and path.name not in tried] == []


@pytest.mark.parametrize("name", ["grafana-dashboards.yml", "grafana-datasources.yml", "prometheus.yml", "alerts.yml"])
def test_what_a_container_reads_is_mounted_where_it_looks(name: str) -> None:
    mounts = [volume.split(":") for service in STACK.values() for volume in service.get("volumes", [])]
    (at,) = [target for source, target, *_ in mounts if source == f"./config/{name}"]
    match yaml.safe_load((CONFIG / name).read_text()):
        case {"datasources": [{"url": url, "isDefault": True}]}:
            assert at.startswith("/etc/grafana/provisioning/datasources/")
            assert re.fullmatch(r"http://(\w+):9090", url)[1] in STACK  # type: ignore[index]
        case {"providers": [{"options": {"path": folder}}]}:
            assert at.startswith("/etc/grafana/provisioning/dashboards/")
            assert ["./config/grafana.json", f"{folder}/llm2ws.json", "ro"] in mounts
            assert STACK["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/llm2ws.json"
        case {"scrape_configs": jobs, "rule_files": ["alerts.yml"]}:
            names = [name for job in jobs for sd in job["dns_sd_configs"] for name in sd["names"]]
            assert [name for name in names if name not in STACK] == []
            assert ["./config/alerts.yml", "/etc/prometheus/alerts.yml", "ro"] in mounts
        case {"groups": [{"rules": rules}]}:
            assert all({"summary", "action"} <= set(rule["annotations"]) for rule in rules)
        case other:
            pytest.fail(f"{name} holds {list(other)}")


def test_the_dashboard_asks_the_datasource_that_is_there() -> None:
    dashboard = json.loads((CONFIG / "grafana.json").read_text())
    assert [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "datasource"] == ["prometheus"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"${datasource}"}


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "config/prometheus.yml"),
        ("check", "rules", "config/alerts.yml"),
        ("test", "rules", "tests/data/alerts_test.yml"),
    ],
    ids=["config", "rules", "alerts fire"],
)
def test_promtool(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def haproxy(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["haproxy", "-c", "-f", str(CONFIG / "haproxy.cfg")],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_haproxy
def test_haproxy_takes_it_without_a_warning() -> None:
    addresses = {f"LLM2WS_{n}": f"127.0.0.1:{n}" for n in (1, 2, 3)}
    done = haproxy(LLM2WS_SERVER__REPLICAS="3", **addresses)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr


@needs_haproxy
@pytest.mark.parametrize("environ", [{}, {"LLM2WS_SERVER__REPLICAS": "1"}])
def test_haproxy_does_not_start_before_replicas_that_do_not_know_of_each_other(environ: dict[str, str]) -> None:
    done = haproxy(**environ)
    assert done.returncode == 1
    assert "set LLM2WS_SERVER__REPLICAS=3 in .env" in done.stderr


def test_haproxy_cuts_nothing_off_that_still_runs() -> None:
    drain_s = float(STACK["llm2ws"]["environment"]["LLM2WS_SERVER__DRAIN_S"])
    assert f"hard-stop-after {drain_s + 10:.0f}s" in HAPROXY
    assert "timeout tunnel" in HAPROXY
    assert "shutdown-sessions" not in HAPROXY
    servers = re.findall(r'^ +server \S+ "\$\{\w+-(\S+):8765\}"', HAPROXY, re.MULTILINE)
    assert servers == [name for name, service in STACK.items() if "build" in service]
