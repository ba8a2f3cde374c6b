"""The certificate of the daemon: exchanged while it runs, or refused."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import pytest
import trustme

from llm2ws.errors import ConfigError
from llm2ws.server import run as life
from llm2ws.server.run import running
from llm2ws.settings.fields import Server, Settings
from tests.server.processes import process


async def test_certificates_are_exchanged_while_it_runs(tmp_path: Path) -> None:
    ca = trustme.CA()
    files = f'tls_cert_file = "{tmp_path / "cert.pem"}"\ntls_key_file = "{tmp_path / "key.pem"}"'

    def issue() -> bytes:
        cert = ca.issue_cert("127.0.0.1")
        cert.private_key_pem.write_to_path(tmp_path / "key.pem")
        cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        return ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode())

    context = ssl.create_default_context()
    ca.configure_trust(context)

    async def served(url: str) -> bytes | None:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]), ssl=context)
        secure = writer.get_extra_info("ssl_object")
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
        found: bytes | None = secure.getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return found

    first = issue()
    async with process(tmp_path, server=files) as daemon:
        assert daemon.url.startswith("https://")
        assert await served(daemon.url) == first
        second = issue()
        daemon.signal(signal.SIGHUP)
        await daemon.line("settings were reloaded")
        assert await served(daemon.url) == second
        (tmp_path / "cert.pem").write_text("nothing")
        daemon.signal(signal.SIGHUP)
        assert "no PEM certificate" in await daemon.line("settings were not reloaded")
        assert await served(daemon.url) == second


async def test_a_certificate_that_is_written_while_settings_are_read_again(tmp_path: Path) -> None:
    ca = trustme.CA()
    cert, other = ca.issue_cert("127.0.0.1"), ca.issue_cert("127.0.0.1")
    path = tmp_path / "both.pem"
    cert.private_key_and_cert_chain_pem.write_to_path(path)
    settings = Settings(server=Server(listen="127.0.0.1:0", tls_cert_file=str(path)))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with running(settings) as daemon:
        before = asyncio.all_tasks()
        reload = asyncio.create_task(life._exchange(daemon, settings))
        await asyncio.sleep(0)  # its service is being started: half of the new certificate is there then
        path.write_bytes(other.cert_chain_pems[0].bytes() + cert.private_key_pem.bytes())
        with pytest.raises(ConfigError, match="no PEM certificate with its key"):
            await reload
        assert asyncio.all_tasks() <= before
        _, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]), ssl=context)
        writer.close()
        await writer.wait_closed()
