"""The page in a real browser: every sample is played, Stop is quick, text stays text, and no other origin gets in."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from llm2ws.settings.fields import Key, Secret, Server
from llm2ws.testing import Coding, Drop, FaultySpeech, How, Renderer
from tests.server.conftest import CODING, Running, Start, says
from tests.sources.replay import SSE, End, Reply
from tests.support import MS, ROOT

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

STATIC = ROOT / "llm2ws" / "server" / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
SAMPLE_RATE = 24_000  # of the audio of /chat
TEXT = "The sky is blue, because air scatters short waves of light more. " * 3
LONG = Coding(char_samples=1200, word_pause_s=0.004, sentence_pause_s=0.01, lead_in_s=0.0)  # 20 characters a second
STOP_MS = 200 * MS * 1000


# --- what is served ---------------------------------------------------------------------------------------------------------


async def test_every_file_is_served_and_no_other(start: Start, canary: Callable[[], str]) -> None:
    server = Server(keys=(Key(name="one", key=Secret(canary())),))
    async with start(server=server) as running:  # the page itself needs no key: it asks for one
        for path in ("", *(f"static/{name}" for name in FILES)):
            async with running.http.get(f"/{path}") as answer:
                assert answer.status == 200, path
                assert await answer.read() == (STATIC / (Path(path).name or "index.html")).read_bytes()
                assert answer.charset == "utf-8"
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert "unsafe" not in answer.headers["Content-Security-Policy"]
                assert "; require-trusted-types-for 'script'" in answer.headers["Content-Security-Policy"]
            async with running.http.get(f"/{path}", headers={"If-None-Match": answer.headers["ETag"]}) as again:
                assert (again.status, await again.read()) == (304, b"")
        for path in ("static/none.js", "static/..%2fpage.py", "static/%2e%2e/page.py", "static/", "page.js"):
            async with running.http.get(f"/{path}") as answer:
                assert answer.status in (401, 404), path  # what is no path at all asks for a key
        async with running.http.post("/chat?audio=1", json={"prompt": "Hello."}) as answer:
            assert answer.status == 401


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_inline_and_nothing_is_from_elsewhere(name: str) -> None:
    text = (STATIC / name).read_text()

    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text) == []
    if name.endswith(".html"):
        assert re.findall(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|javascript:", text) == []
    if name.endswith(".js"):
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == []


# --- in a browser -----------------------------------------------------------------------------------------------------------

# What reaches the loudspeaker, whatever the page says of it: each connection to it goes into a recorder as well.
RECORDER = """
(() => {
  const connect = AudioNode.prototype.connect;
  const recorders = new WeakMap();
  window.clicked = 0;
  for (const kind of ["click", "keydown"]) addEventListener(kind, (event) => (window.clicked = event.timeStamp), true);
  window.loud = 0;
  window.quiet = 0;
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to === this.context.destination) {
      if (!recorders.has(this.context)) {
        const recorder = this.context.createScriptProcessor(256, 1, 1);
        recorder.onaudioprocess = ({ inputBuffer }) => {
          if (inputBuffer.getChannelData(0).some((sample) => sample !== 0)) {
            window.loud = performance.now();
            window.quiet = 0;
          } else window.quiet += 1;
        };
        connect.call(recorder, to);
        recorders.set(this.context, recorder);
      }
      connect.call(this, recorders.get(this.context));
    }
    return connect.call(this, to, ...rest);
  };
})();
"""

# The same, losing nothing: for what is to be compared sample by sample.
TAPE = """
(() => {
  const connect = AudioNode.prototype.connect;
  const source = `registerProcessor("tape", class extends AudioWorkletProcessor {
    process([[heard]]) { if (heard) this.port.postMessage(heard.slice()); return true; }
  });`;
  window.tape = [];
  const addModule = AudioWorklet.prototype.addModule;
  AudioWorklet.prototype.addModule = async function (url) {
    await addModule.call(this, URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    return addModule.call(this, url);
  };
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to === this.context.destination) {
      const tape = new AudioWorkletNode(this.context, "tape");
      tape.port.onmessage = ({ data }) => window.tape.push(...data);
      connect.call(this, tape);
      connect.call(tape, to);
    }
    return connect.call(this, to, ...rest);
  };
})();
"""


@asynccontextmanager
async def browser(*args: str, **context: Any) -> AsyncIterator[BrowserContext]:
    playwright = pytest.importorskip("playwright.async_api", reason="needs: playwright")
    path = shutil.which("chromium") or shutil.which("chromium-headless-shell")
    async with playwright.async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=path, args=["--no-sandbox", *args])
        async with chromium, await chromium.new_context(**context) as opened:
            yield opened


async def opened(context: BrowserContext, url: str, script: str = "") -> Page:
    page = await context.new_page()
    if script:
        await page.add_init_script(script)
    await page.goto(url)
    return page


async def ask(page: Page, prompt: str = "Why?", *, until: str = "finished") -> None:
    await page.fill("#prompt", prompt)
    await page.press("#prompt", "Enter")
    await page.wait_for_selector(f"body[data-state={until}]")


async def heard(page: Page) -> dict[str, str]:
    data: dict[str, str] = await page.evaluate("({...document.getElementById('samples').dataset})")
    return data


def seen(page: Page) -> list[str]:
    """What the browser complains of, and requests to elsewhere."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: found.append(request.url) if not request.url.startswith(page.url) else None)
    return found


@pytest.mark.browser
async def test_every_sample_is_played(start: Start) -> None:
    async with start(TEXT) as running, browser(bypass_csp=True) as context:  # for the tape
        page = await opened(context, running.url, TAPE)
        await ask(page)

        data = await heard(page)
        assert data["kind"] == "worklet"
        assert data["played"] == data["received"]
        # On a busy machine the answer may come too late, and silence is played in between: all else is compared.
        pcm = Renderer(CODING, SAMPLE_RATE, Random(0)).say(TEXT)
        expected = [sample for (sample,) in struct.iter_unpack("<h", pcm) if sample]
        await page.wait_for_function("n => window.tape.filter(Boolean).length >= n", arg=len(expected))
        tape: list[float] = await page.evaluate("window.tape.filter(Boolean)")
        assert [round(sample * 32768) for sample in tape] == expected
        assert (await page.inner_text("#text")).strip() == TEXT.strip()
        assert (await page.inner_text("#heard")).strip() == TEXT.strip()  # all of it is lit


@pytest.mark.browser
async def test_a_turn_and_its_waterfall(start: Start) -> None:
    async with start(TEXT) as running, browser() as context:
        page = await context.new_page()
        await page.goto(running.url)
        complaints = seen(page)
        await ask(page, "First?")
        await ask(page, "Second?", until="speaking")
        await page.wait_for_selector("body[data-state=finished]")

        rows = await page.locator("#waterfall tbody tr").all_inner_texts()
        names = [row.split("\t")[0] for row in rows]
        assert names == ["First token", "First fragment", "Sent to speech", "First audio", "Played"]
        times = [int(row.split("\t")[-1].removesuffix(" ms")) for row in rows]
        assert times == sorted(times)
        assert await page.locator("#waterfall .bar").count() == 5
        assert await page.locator("#turns .prompt").all_inner_texts() == ["Second?", "First?"]
        assert await page.locator("#turns .bar").count() == 10
        assert complaints == []


async def playing(page: Page) -> None:
    """Ask, and wait until the answer is heard."""
    await ask(page, until="speaking")
    await page.evaluate("window.loud = 0")
    while not await page.evaluate("window.loud"):
        pass
    await page.wait_for_selector("#said:not(:empty)")


async def _stopped(running: Running, page: Page) -> None:
    """It was, soon enough, by the page's own measure and by what the loudspeaker got; and the daemon has noticed."""
    await page.wait_for_selector("body[data-state=stopped]")
    assert float((await heard(page))["stoppedMs"]) < STOP_MS
    while await page.evaluate("window.quiet") < 20:  # blocks of silence in a row
        pass
    assert await page.evaluate("window.loud - window.clicked") < STOP_MS
    await running.llm.left.wait()
    assert await page.is_disabled("#stop")


@pytest.mark.browser
@pytest.mark.parametrize("how", ["click", "Escape", "Tab"])
async def test_stop(start: Start, how: str) -> None:
    speech = FaultySpeech(coding=LONG)
    async with start(says(TEXT * 9, end=End.HOLD), speech=speech) as running, browser() as context:
        page = await opened(context, running.url, RECORDER)
        await playing(page)
        match how:
            case "click":
                await page.click("#stop")
            case "Tab":
                while await page.evaluate("document.activeElement.id") != "stop":
                    await page.keyboard.press("Tab")
                await page.keyboard.press("Enter")
            case key:
                await page.keyboard.press(key)
        await _stopped(running, page)
        said = await page.inner_text("#said")
        assert said
        assert await page.inner_text("#ahead")


@pytest.mark.browser
async def test_a_new_prompt_stops_the_answer_before(start: Start) -> None:
    speech = FaultySpeech(coding=LONG)
    async with start(says(TEXT * 9, end=End.HOLD), "Yes.", speech=speech) as running, browser() as context:
        page = await opened(context, running.url)
        await ask(page, "First?", until="speaking")
        await ask(page, "Second?")
        await running.llm.left.wait()

        assert await page.inner_text("#text") == "Yes."
        data = await heard(page)
        assert data["played"] == data["received"]


@pytest.mark.browser
async def test_an_answer_is_text(start: Start) -> None:
    markup = '<img src=x onerror="window.hacked=1"> <b>bold</b> <script>window.hacked=1</script> & so on.'
    async with start(markup) as running, browser() as context:
        page = await opened(context, running.url)
        complaints = seen(page)
        await ask(page, markup)

        assert await page.inner_text("#text") == markup
        assert await page.locator("#turns .prompt").inner_text() == markup
        assert await page.evaluate("[window.hacked, document.querySelectorAll('img, b, main script').length]") == [None, 0]
        assert complaints == []


@pytest.mark.browser
async def test_what_fails_is_said(start: Start) -> None:
    broken = Reply(says("One two three. ").pieces[:5], 200, SSE, End.CUT)
    async with start(broken, Reply([b"{}"], 401, SSE), "Fine.") as running, browser() as context:
        page = await opened(context, running.url)
        for _ in range(2):
            await ask(page, until="failed")
            assert await page.inner_text("#error")
        await ask(page)
        assert await page.inner_text("#error") == ""
        await running.speech.__aexit__(None, None, None)


@pytest.mark.browser
async def test_what_happened_to_the_speech_is_told(start: Start) -> None:
    async with start(TEXT, speech=FaultySpeech(coding=LONG)) as running, browser() as context:
        running.speech.drops.append(Drop(How.RESET, at_frame=3))
        page = await opened(context, running.url)
        await ask(page, until="speaking")
        status = "document.getElementById('status').textContent"
        await page.wait_for_function(f"{status} === 'Speaking: went on where the lost connection had broken off'")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("body[data-state=stopped]")


@pytest.mark.browser
async def test_a_daemon_with_keys_asks_for_one(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    async with start("Yes.", server=Server(keys=(Key(name="one", key=Secret(key)),))) as running, browser() as context:
        page = await opened(context, running.url)
        await ask(page, until="failed")
        assert "key" in await page.inner_text("#error")
        await page.fill("#key", key)
        await page.press("#key", "Enter")
        await page.wait_for_selector("body[data-state=finished]")
        await page.reload()
        await ask(page)  # this tab knows it


@pytest.mark.browser
async def test_without_a_secure_context_it_falls_back(start: Start) -> None:
    """On plain http from another host there is no AudioWorklet."""
    speech = FaultySpeech(coding=LONG)
    replies = (TEXT[:65], says(TEXT * 9, end=End.HOLD))
    async with start(*replies, server=Server(hosts=("example.test",)), speech=speech) as running:
        async with browser("--host-resolver-rules=MAP example.test 127.0.0.1") as context:
            page = await opened(context, running.url.replace("127.0.0.1", "example.test"), RECORDER)
            assert await page.evaluate("[isSecureContext, 'audioWorklet' in AudioContext.prototype]") == [False, False]
            await ask(page)
            data = await heard(page)
            assert data["kind"] == "buffers"
            assert data["played"] == data["received"]
            assert (await page.inner_text("#heard")).strip() == TEXT[:65].strip()

            await playing(page)
            await page.keyboard.press("Escape")
            await _stopped(running, page)


@pytest.mark.browser
async def test_other_origins_get_nothing(start: Start) -> None:
    """A page from elsewhere that posts, and one whose name was made to point here."""
    async with start("Yes.") as running, elsewhere() as port:
        async with browser("--host-resolver-rules=MAP *.test 127.0.0.1") as context:
            page = await opened(context, f"http://evil.test:{port}/")
            post = """async ([url, options]) => {
                try { return (await fetch(url, {method: "POST", body: '{"prompt": "Hello."}', ...options})).status }
                catch (error) { return error.name }
            }"""
            for options in ({"mode": "no-cors"}, {}, {"headers": {"Content-Type": "application/json"}}):
                assert await page.evaluate(post, [f"{running.url}/chat?audio=1", options]) in ("TypeError", 0)
            async with page.expect_navigation() as navigation:
                await page.evaluate(
                    """(url) => {
                        const form = document.createElement("form");
                        Object.assign(form, {method: "post", enctype: "text/plain", action: url});
                        document.body.append(form);
                        form.submit();
                    }""",
                    f"{running.url}/chat",
                )
            answer = await navigation.value
            assert answer is not None
            assert answer.status == 403

            rebound = running.url.replace("127.0.0.1", "rebound.test")
            landed = await page.goto(rebound)
            assert landed is not None
            assert landed.status == 421
            json = {"headers": {"Content-Type": "application/json"}}
            assert await page.evaluate(post, [f"{rebound}/chat?audio=1", json]) == 421
        assert running.llm.requests == []


@asynccontextmanager
async def elsewhere() -> AsyncIterator[int]:
    """A server of somebody else's page."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>Elsewhere</title><body>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


WIDTHS = (360, 768, 1280)
SCHEMES = ("light", "dark")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_width_scrolls_sideways(start: Start, scheme: str) -> None:
    text = f"{TEXT} {'x' * 300} <https://example.com/{'y' * 200}>"
    async with start(text) as running, browser(color_scheme=scheme) as context:
        page = await opened(context, running.url)
        for asked in (False, True):
            if asked:
                await ask(page, "z" * 200)
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 800})
                assert await page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.browser
async def test_reduced_motion_lights_up_whole_fragments(start: Start) -> None:
    speech = FaultySpeech(coding=LONG)
    async with start(says(TEXT, end=End.HOLD), speech=speech) as running, browser(reduced_motion="reduce") as context:
        page = await opened(context, running.url)
        await ask(page, until="speaking")
        await page.wait_for_selector("#said:not(:empty)")
        assert (await page.inner_text("#said")).strip() == "The sky is blue,"
        await page.keyboard.press("Escape")
        await page.wait_for_selector("body[data-state=stopped]")


@pytest.mark.browser
async def test_the_player_is_a_module_of_its_own(start: Start) -> None:
    async with start() as running, browser() as context:
        page = await opened(context, running.url)
        played = await page.evaluate("""async () => {
            const { openPlayer } = await import("/static/player.js");
            const player = await openPlayer({ sampleRate: 48000 });
            for (let n = 0; n < 10; n++) player.push(new Int16Array(1001).fill(n + 1));
            player.end();
            await player.started;
            await player.over;
            const stopped = await player.stop();
            return [player.played, player.missing, player.position <= 10010 / 48000, stopped <= 10010 / 48000];
        }""")
        assert played == [10_010, 0, True, True]


WORKLET = """
const context = {
  sampleRate: 24000,
  AudioWorkletProcessor: class { port = { postMessage() {} }; },
  registerProcessor: (name, Player) => { context.player = new Player(); },
};
require("vm").runInNewContext(require("fs").readFileSync(process.argv[1], "utf8"), context);
const heard = [];
for (const [data, quanta] of JSON.parse(process.argv[2])) {
  if (data) context.player.port.onmessage({ data: Array.isArray(data) ? { samples: Int16Array.from(data) } : data });
  for (let n = 0; n < quanta; n++) {
    const out = new Float32Array(128);
    context.player.process([], [[out]]);
    heard.push(...out.map((value) => value * 32768));
  }
}
console.log(JSON.stringify([heard, context.player.missing]));
"""


@pytest.mark.node
def test_after_a_pause_it_waits_for_enough_or_long_enough() -> None:
    """60 ms are 1,440 samples, which take 12 quanta."""

    def played(*steps: tuple[object, int]) -> tuple[list[tuple[int, int]], int]:
        """Runs of equal samples, and what was missing."""
        command = ["node", "-e", WORKLET, str(ROOT / "llm2ws/server/static/worklet.js"), json.dumps(steps)]
        heard, missing = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return [(value, len(list(run))) for value, run in itertools.groupby(map(int, heard))], missing

    much, little = 1_536, 256
    assert played(([1] * much, 14)) == ([(1, much), (0, 256)], 256)
    assert played((None, 5), ([1] * little, 14)) == ([(0, 16 * 128), (1, little), (0, 128)], 128)
    assert played(([1] * much, 14), ([2] * little, 14)) == ([(1, much), (0, 13 * 128), (2, little), (0, 128)], 14 * 128)
    assert played(([1] * much, 14), ([2] * little, 2), ([2] * much, 14)) == ([(1, much), (0, 512), (2, 1_792)], 512)
    assert played(([1] * much, 14), ([2] * little, 1), ({"end": True}, 3)) == (
        [(1, much), (0, 384), (2, little), (0, 128)],
        384,
    )


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The rules as a script."""
    folder = tmp_path_factory.mktemp("axe")
    shutil.copytree(ROOT / "tests" / "data" / "axe", folder, dirs_exist_ok=True)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(npm, cwd=folder, check=True, timeout=60)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.browser
@pytest.mark.node
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_rule_of_accessibility_is_broken(start: Start, axe: str, scheme: str) -> None:
    speech = FaultySpeech(coding=LONG)
    replies = ("Yes.", says(TEXT, end=End.HOLD), Reply([b"{}"], 401, SSE))
    async with start(*replies, speech=speech) as running, browser(color_scheme=scheme, bypass_csp=True) as context:
        page = await opened(context, running.url)

        async def broken() -> list[str]:
            await page.evaluate(axe)
            found = await page.evaluate("axe.run({resultTypes: ['violations']})")
            return [f"{rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]

        assert await broken() == []
        await ask(page)
        assert await broken() == []
        await ask(page, until="speaking")
        await page.wait_for_selector("#said:not(:empty)")
        assert await broken() == []
        await page.keyboard.press("Escape")
        await page.wait_for_selector("body[data-state=stopped]")
        await ask(page, until="failed")
        await page.evaluate("document.getElementById('access').hidden = false")
        assert await broken() == []
