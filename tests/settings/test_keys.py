"""Keys that are set, and keys that a file holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm2ws.errors import ConfigError
from llm2ws.settings.fields import Llm, Secret, Speech
from llm2ws.settings.keys import key_of, read_key


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "not one line"), (b"a\nb", "not one line"), (b"a b", "not one line"), (b"\xff", "not text")]
)
def test_a_key_file_holds_the_key_alone(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(b" abc\n")
    assert read_key(str(path)) == "abc"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        read_key(str(path))


@pytest.mark.parametrize("section", [Llm, Speech])
def test_a_key_that_is_set_is_stronger_than_its_file(
    tmp_path: Path, section: type[Llm | Speech], canary: Callable[[], str]
) -> None:
    path = tmp_path / "key"
    key, other = canary(), canary()
    path.write_text(f"{key}\n")
    assert key_of(section(api_key_file=str(path))) == key
    assert key_of(section(api_key=Secret(other), api_key_file=str(path))) == other
    assert key_of(section()) == ""
