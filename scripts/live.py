"""Tries the services whose keys you have set, for half a minute and a few hundred tokens, and prints a report to paste.

    scripts/live [--config FILE]

Each LLM answers one question over the first speech endpoint, each further endpoint speaks an answer of the first LLM, and each
endpoint is interrupted once. No key and no word of an answer is in the report.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from msgspec.structs import replace

from llm2ws.errors import ConfigError, Llm2wsError
from llm2ws.service import Service
from llm2ws.settings.fields import Settings
from llm2ws.settings.llms import choose_llm
from llm2ws.settings.loading import load, vendor_variables
from llm2ws.settings.speech import LOCAL, choose_speech
from llm2ws.sources.aside import Aside
from llm2ws.speech.dialects import DIALECTS
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.turn import Audio, Done, Notice

PROMPT = "Say in three short sentences why the sky is blue."
TRY_S = 30.0  # for one answer
INTERRUPT_AFTER_S = 1.0  # of audio
MAX_TOKENS = 300


class Row(NamedTuple):
    what: str
    outcome: str
    figures: str = ""


async def answered(service: Service, llm: str, speech: str) -> Row:
    what = f"{llm} over {speech}"
    finish: dict[str, object] = {}
    notices: list[str] = []
    conversation = service.conversation(speech, pace=Pace.LISTENER)
    async with conversation.turn(service.answer(llm, PROMPT)) as turn, aclosing(turn.events()) as events:
        async for event in events:
            match event:
                case Aside(kind="finish"):
                    finish = dict(event.data)
                case Notice():
                    notices.append(event.kind)
                case Done():
                    break
    stats = turn.stats
    times = ("first_token_s", "first_speak_s", "first_audio_s", "last_token_s", "done_s")
    figures = [f"{name.removesuffix('_s').replace('_', ' ')} {value:.2f}" for name in times if (value := getattr(stats, name))]
    figures += [f"audio {stats.audio_s:.1f} s", f"{stats.sent_chars} characters", f"{stats.flushes} flushes"]
    figures += [f"finish {finish.get('reason')}", "usage told" if finish.get("usage") else "no usage", *notices]
    return Row(what, str(turn.outcome), ", ".join(figures))


async def interrupted(service: Service, llm: str, speech: str) -> Row:
    """Then the next turn on the same connection begins clean."""
    conversation = service.conversation(speech, pace=Pace.LISTENER)
    loop = asyncio.get_running_loop()
    async with conversation.turn(service.answer(llm, PROMPT)) as turn, aclosing(turn.events()) as events:
        async for event in events:
            if isinstance(event, Audio) and event.at_s >= INTERRUPT_AFTER_S:
                break
        since = loop.time()
        heard = await turn.interrupt(INTERRUPT_AFTER_S)
        took_s = loop.time() - since
    opened = service.pool.opened
    after = await answered(service, llm, speech)
    kept = "same connection" if service.pool.opened == opened else "another connection"
    figures = f"told in {took_s * 1000:.0f} ms, {len(heard.heard)} characters heard, next turn {after.outcome} on the {kept}"
    return Row(f"{speech} interrupted", str(turn.outcome), figures)


async def tried(settings: Settings, llms: list[str], endpoints: list[str]) -> list[Row]:
    rows = []
    async with Service(settings, speech=endpoints, llms=llms) as service:
        asked = [(answered, llm, endpoints[0]) for llm in llms] + [(answered, llms[0], other) for other in endpoints[1:]]
        for attempt, llm, speech in [*asked, *((interrupted, llms[0], speech) for speech in endpoints)]:
            try:
                async with asyncio.timeout(TRY_S):
                    rows.append(await attempt(service, llm, speech))
            except TimeoutError:
                rows.append(Row(f"{llm} over {speech}", "FAILED", f"not done after {TRY_S:g} s"))
            except Llm2wsError as exc:
                rows.append(Row(f"{llm} over {speech}", "FAILED", f"{type(exc).__name__}: {exc}"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", help="settings, instead of the usual files")
    try:
        settings = load(config=parser.parse_args().config, folder=".").settings
        llms = [name for name in settings.llm if choose_llm(settings, name)[1].kind != "echo"]
        endpoints = [name for name in settings.speech if choose_speech(settings, name)[1].dialect != LOCAL]
        endpoints += [
            name
            for name, row in DIALECTS.items()
            if row.account in endpoints and name not in endpoints and not settings.speech[row.account].url
        ]
        keys = [name for name in vendor_variables() if name.endswith("_KEY")]
        if not llms and not endpoints:
            raise ConfigError("there is nothing to try", hint=f"set one of {', '.join(keys)}")
        limited = {name: replace(settings.llm[name], max_tokens=MAX_TOKENS) for name in llms}
        rows = asyncio.run(tried(replace(settings, llm={**settings.llm, **limited}), llms or ["echo"], endpoints or [LOCAL]))
    except Llm2wsError as exc:
        print(f"llm2ws: {exc}", file=sys.stderr)
        return 2
    libraries = ", ".join(f"{name} {version(name)}" for name in ("openai", "anthropic", "aiohttp", "websockets"))
    print(f"llm2ws against live services: Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"{libraries}\n\n| tried | outcome | figures (seconds from the start of the turn) |\n|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.outcome} | {row.figures} |")
    return 0 if all(row.outcome in ("done", "interrupted") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
