"""The settings file with every setting: it is what the code says, and sets the defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

from llm2ws.settings.fields import Llm, Settings, Speech
from llm2ws.settings.loading import load
from llm2ws.settings.sample import sample
from tests.support import ROOT


def test_the_sample_file_is_what_the_code_says() -> None:
    assert (ROOT / "config" / "llm2ws.toml").read_text() == sample(), "write sample() into it"


def test_the_sample_file_sets_the_defaults(tmp_path: Path) -> None:
    text = (ROOT / "config" / "llm2ws.toml").read_text()
    assert load(config=str(ROOT / "config" / "llm2ws.toml"), environ={}).settings == Settings()

    # With the tables uncommented that have names of one's own, still the defaults; only what is unset stays out.
    path = tmp_path / "llm2ws.toml"
    path.write_text(
        "\n".join(
            line.removeprefix("# ")
            for line in text.splitlines()
            if "(unset)" not in line and "Read from" not in line and "~/" not in line and "any name" not in line
        )
    )
    assert load(config=str(path), environ={}).settings == Settings(llm={"echo": Llm()}, speech={"deepgram": Speech()})


def test_every_setting_has_a_reason_and_a_default_that_is_no_secret() -> None:
    lines = [line.removeprefix("# ") for line in sample().splitlines() if re.match(r"(# )?[a-z_]+ = ?", line)]
    assert len(lines) >= 30
    for line in lines:
        value, _, why = line.partition(" # ")
        assert len(why) > 10, line
        assert value.rstrip().endswith("=") or json.loads(value.partition("=")[2]) is not None
