"""Addresses and keys: each rule that decides where a key may go."""

from __future__ import annotations

import pytest

from llm2ws.address import is_key, is_loopback, may_carry_key, split_host_port
from llm2ws.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("128.0.0.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("::ffff:192.0.2.1", False),
        ("example.org", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_this_machine_and_no_other(host: str | None, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("scheme", "host", "may"),
    [
        ("https", "example.org", True),
        ("wss", "example.org", True),
        ("http", "127.0.0.1", True),
        ("ws", "localhost", True),
        ("http", "example.org", False),
        ("ws", "192.0.2.1", False),
        ("tcp", "example.org", False),
        ("ws", None, False),
    ],
)
def test_a_key_goes_over_tls_or_stays_on_this_machine(scheme: str, host: str | None, may: bool) -> None:
    assert may_carry_key(scheme, host) is may


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sk-aZ09_.~", True),
        ("", False),
        ("two words", False),
        ("a\n", False),
        ("a\r\nX-Other: b", False),
        ("cl\u00e9", False),
        ("a\x7f", False),
    ],
)
def test_a_key_is_visible_ascii(text: str, key: bool) -> None:
    assert is_key(text) is key


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:8765", ("127.0.0.1", 8765)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:0", ("localhost", 0)),
        ("voice.example:65535", ("voice.example", 65535)),
    ],
)
def test_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_host_port(address, setting="--listen") == parts


@pytest.mark.parametrize("address", ["", "8765", ":8765", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "h:-1"])
def test_what_is_no_host_and_port_names_the_setting(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^--listen .*: not an address: write HOST:PORT"):
        split_host_port(address, setting="--listen")
