"""Try what the settings name: each LLM and speech endpoint, the loudspeaker, the daemon's address. Show the settings.

No try costs money: an LLM is asked for its list of models, and to a speech endpoint a connection is opened.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
from collections.abc import Awaitable, Iterator, Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..address import is_loopback, split_host_port
from ..errors import ConfigError, ConnectFailed, Llm2wsError, SourceError
from ..watch.log import printable

if TYPE_CHECKING:
    from ..settings.fields import Settings
    from ..settings.loading import Loaded

__all__ = ["CheckState", "Checked", "check", "settings_of", "show"]

TRY_S = 10.0  # how long an LLM or endpoint may take to answer

# The extras of the package, and the modules that each brings.
EXTRAS = {
    "local": ("espeakng_loader", "numpy", "soxr"),
    "play": ("miniaudio",),
    "mp3": ("lameenc",),
    "fast": ("uvloop",),
}
_FOR = {"local": "the embedded speech endpoint", "play": "sound", "mp3": "MP3", "fast": "a faster event loop"}


class CheckState(StrEnum):
    """What came of a try."""

    OK = "ok"
    WARNING = "warning"  # the rest works without it, or it may work all the same
    FAILED = "failed"


class Checked(NamedTuple):
    """A try and what came of it. `hint`: what to do, "" for nothing. `error`: None unless it failed."""

    kind: str
    name: str
    state: CheckState
    detail: str
    hint: str = ""
    error: Llm2wsError | None = None


async def check(settings: Settings) -> list[Checked]:
    """Try everything that the settings name, all at the same time."""
    from ..settings.llms import default_llm
    from ..settings.speech import wanted_speech

    endpoints = wanted_speech(settings).items()
    llms = dict.fromkeys([*settings.llm, default_llm(settings)])
    async with asyncio.TaskGroup() as tasks:
        tried = [
            *(tasks.create_task(_tried("llm", name, _llm(settings, name))) for name in llms),
            *(tasks.create_task(_tried("speech", name, _speech(settings, name, of))) for name, of in endpoints),
            tasks.create_task(_tried("sound", settings.play.device or "any", _sound(settings))),
        ]
    return [*(task.result() for task in tried), *_server(settings), *_extras()]


async def _tried(kind: str, name: str, attempt: Awaitable[tuple[CheckState, str, str]]) -> Checked:
    try:
        return Checked(kind, _masked(name), *await attempt)
    except Llm2wsError as exc:
        return Checked(kind, _masked(name), CheckState.FAILED, exc.what, exc.hint, exc)


async def _llm(settings: Settings, name: str) -> tuple[CheckState, str, str]:
    from msgspec.structs import replace

    from ..settings.llms import KINDS, choose_llm, llm_client

    _, llm = choose_llm(settings, name)
    llm_client(settings, llm)  # raises what a start would, of those too that answer in its place
    client = KINDS[llm.kind](replace(llm, max_retries=0))
    if llm.kind == "echo":
        return (
            CheckState.OK,
            client.who,
            "" if settings.llm else "set OPENAI_API_KEY, ANTHROPIC_API_KEY or [llm.<name>] for answers",
        )
    async with client:
        since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(TRY_S):
                names = await client.models()
        except TimeoutError:
            raise SourceError(f"{client.who}: no answer within {TRY_S:g} s", hint="look at base_url and the network") from None
    took = f"{client.who}: answers in {asyncio.get_running_loop().time() - since:.2f} s"
    # Servers name what they have in their own ways (with a maker, a tag, a date), and some take any name.
    model = client.who.partition(" at ")[0]
    if names is None or any(model.rpartition("/")[2].partition(":")[0] in listed for listed in names):
        return CheckState.OK, took, ""
    has = f"it has {', '.join(names[:5])}" if names else "it has none: load or pull one"
    return CheckState.WARNING, f"{took}, and does not list that model", f"if it does not answer, set model: {has}"


async def _speech(settings: Settings, name: str, of: str) -> tuple[CheckState, str, str]:
    from ..service import Service
    from ..settings.speech import LOCAL, audio_format, choose_speech

    _, entry = choose_speech(settings, name, of=of)
    fmt = audio_format(entry)
    where = "the embedded endpoint" if entry.dialect == LOCAL else _masked(entry.url) or f"{entry.dialect}'s own address"
    since, try_s = asyncio.get_running_loop().time(), max(TRY_S, entry.connect_s)
    try:
        async with asyncio.timeout(try_s), Service(settings, speech=[name], llms=[]) as service:
            await service.warm()
            took_s = asyncio.get_running_loop().time() - since
    except TimeoutError:
        raise ConnectFailed(f"{where}: no answer within {try_s:g} s", hint="look at url and the network") from None
    return CheckState.OK, f"{where}: open after {took_s:.2f} s ({fmt})", ""


async def _sound(settings: Settings) -> tuple[CheckState, str, str]:
    """Play a tenth of a second of silence."""
    from ..audio import AudioFormat
    from ..sinks.device import Player, preload

    await asyncio.to_thread(preload)
    fmt = AudioFormat()
    async with Player(fmt, device=settings.play.device, ahead_s=settings.play.ahead_s) as player:
        if player.audible:
            await player.write(bytes(fmt.bytes_for(0.1)))
            await player.drain()
        name = player.name
    if player.audible:
        return CheckState.OK, name, ""
    if player.saved_to:
        await asyncio.to_thread(Path(player.saved_to).unlink)
    hint = "use -o FILE" if find_spec("miniaudio") else "pip install 'llm2ws[play]', or use -o FILE"
    return CheckState.WARNING, "nothing here can play sound", hint


def _server(settings: Settings) -> Iterator[Checked]:
    """Yield what would become of the daemon's start. Nothing is served, and the address is free again afterwards."""
    from ..server.access import Access
    from ..server.certificates import server_tls

    server = settings.server
    try:
        Access(server)
        tls = server_tls(server)
        host, port = split_host_port(server.listen, setting="server.listen")
    except ConfigError as exc:
        yield Checked("server", server.listen, CheckState.FAILED, exc.what, exc.hint, exc)
        return
    who = f"with {len(server.keys)} client keys" if server.keys else "without client keys"
    yield _listening(server.listen, host, port, f"{'https' if tls else 'http'}, {who}")
    if not is_loopback(host) and not tls:
        hint = "set tls_cert_file, or put a proxy with a certificate in front"
        yield Checked("server", server.listen, CheckState.WARNING, "without TLS: keys and texts can be read on their way", hint)
    if host in ("0.0.0.0", "::") and not server.hosts:  # noqa: S104 - compared, not bound
        what = "only programs of this machine are answered: others ask for a host that is not in server.hosts"
        yield Checked("server", server.listen, CheckState.WARNING, what, "set hosts to the names and addresses that they use")


def _listening(listen: str, host: str, port: int, detail: str) -> Checked:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            hint = "set server.listen to another port, if it is not the daemon that runs there"
            return Checked("server", listen, CheckState.WARNING, f"{detail}; the address is in use", hint)
        error = ConfigError(f"cannot be listened on: {exc.strerror}", hint="set server.listen to an address of this machine")
        return Checked("server", listen, CheckState.FAILED, error.what, error.hint, error)
    return Checked("server", listen, CheckState.OK, detail)


def _extras() -> Iterator[Checked]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            yield Checked(
                "extra", extra, CheckState.WARNING, f"not installed, for {_FOR[extra]}", f"pip install 'llm2ws[{extra}]'"
            )
        else:
            yield Checked("extra", extra, CheckState.OK, f"installed, for {_FOR[extra]}")


# --- settings, and how all is shown -----------------------------------------------------------------------------------------


class _Setting(NamedTuple):
    name: str
    value: object  # JSON-like, with secrets masked
    origin: str


def settings_of(loaded: Loaded) -> list[_Setting]:
    """Return every setting as it was understood, with its origin."""
    from msgspec import to_builtins

    def leaves(value: object, path: tuple[str, ...]) -> Iterator[_Setting]:
        if isinstance(value, Mapping) and (value or not path):
            for key, inner in value.items():
                yield from leaves(inner, (*path, str(key)))
        elif value != {}:
            yield _Setting(".".join(path), value, loaded.origins.get(path, "default"))

    tree = to_builtins(loaded.settings, enc_hook=lambda secret: "***" if secret else "")
    return list(leaves(_masked_in(tree), ()))


def _masked_in(value: object) -> object:
    match value:
        case dict():
            return {key: _masked_in(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_masked_in(inner) for inner in value]
        case str():
            return _masked(value)
        case _:
            return value


def _masked(text: str) -> str:
    """Return a text with the passwords masked that addresses in it may hold."""
    return re.sub(r"(://[^?#\s]*)[?#]\S*", r"\1?***", re.sub(r"(?<=://)[^/@\s]+@", "***@", text))


def show(loaded: Loaded, checked: list[Checked], *, everything: bool, as_json: bool) -> str:
    """Return settings and tries as lines for people, or as a JSON object. `everything`: settings that nobody set as well."""
    settings = [setting for setting in settings_of(loaded) if everything or setting.origin != "default"]
    if as_json:
        checks = [{key: value for key, value in result._asdict().items() if key != "error"} for result in checked]
        return json.dumps({"settings": [setting._asdict() for setting in settings], "checks": checks}, indent=2)
    lines = [f"{setting.name} = {json.dumps(setting.value, ensure_ascii=False)}  ({setting.origin})" for setting in settings]
    if not everything:
        lines.append("All other settings have their defaults: --all shows them.")
    lines.append("")
    for result in checked:
        lines.append(f"{result.state:8} {result.kind:7} {result.name:10} {result.detail}")
        if result.hint:
            lines.append(f"{'':27} -> {result.hint}")
    return "\n".join(map(printable, lines))
