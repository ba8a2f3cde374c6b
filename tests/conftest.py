"""For every test: a clean environment, nothing left behind, no credential anywhere, and no skip that goes unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import warnings
from collections.abc import Callable, Generator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType

import hypothesis
import pytest

from tests.support import CANARY, ROOT, SCRUBBED, assert_no_canary, has_canary, texts_of

# Read before the environment is cleaned: under .ci/run a skip that tests/allowed_skips.txt does not name is a failure.
STRICT = os.environ.get("LLM2WS_TEST_STRICT") == "1"

for _name in [name for name in os.environ if SCRUBBED.fullmatch(name)]:
    del os.environ[_name]

# No deadlines: on a busy machine they fail tests for nothing.
hypothesis.settings.register_profile("llm2ws", deadline=None, print_blob=True)
hypothesis.settings.load_profile("llm2ws")


def _on_path(*names: str) -> bool:
    return any(map(shutil.which, names))


# What only runs with --all: a marker, and whether this machine has what its tests need.
NEEDS: dict[str, Callable[[], bool]] = {
    "browser": lambda: _on_path("chromium", "chromium-headless-shell"),
    "docker": lambda: _on_path("docker") and bool(os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()),
    "install": lambda: True,
    "node": lambda: _on_path("node"),
    "root": lambda: os.geteuid() == 0,
    "soak": lambda: True,
}

# Marked `core`, which .ci/run runs on every Python but the newest: the pure part, each library where it is used, and one way
# through the daemon. Folders and files of tests/.
CORE = [
    *[
        "text",
        "speech",
        "sources",
        "turn/test_turn.py",
        "turn/test_speaker.py",
        "links/test_connection.py",
        "server/test_chat.py",
    ],
    *["localspeech/test_engine.py", "test_audio.py", "settings/test_loading.py", "watch"],
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests that need a browser, root, Docker, Node or minutes")


@pytest.hookimpl(tryfirst=True)  # before what `-m` leaves out is decided
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    core = [ROOT / "tests" / name for name in CORE]
    if missing := [str(part) for part in core if not part.exists()]:
        raise pytest.UsageError(f"CORE in tests/conftest.py names what is not there: {', '.join(missing)}")
    for item in items:
        if any(item.path.is_relative_to(part) for part in core):
            item.add_marker("core")
    if config.getoption("--all"):
        for item in items:
            for marker, there in NEEDS.items():
                if item.get_closest_marker(marker) and not there():
                    item.add_marker(pytest.mark.skip(reason=f"needs: {marker}"))
        return
    later = [item for item in items if any(map(item.get_closest_marker, NEEDS))]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]


# --- skips -----------------------------------------------------------------------------------------------------------------


_skipped: dict[str, str] = {}
# Suites that try each case with each of several: the property that their tests record, and the title of their table.
_SUITES = {"conformance": "speech endpoints", "llm": "LLMs"}
# Suite, case, who: what came of it, and why it cannot be otherwise.
_tables: dict[str, dict[str, dict[str, tuple[str, str]]]] = {}


def _allowed(nodeid: str) -> bool:
    lines = (ROOT / "tests" / "allowed_skips.txt").read_text().splitlines()
    patterns = [pattern for line in lines if (pattern := line.partition("#")[0].strip())]
    return any(fnmatchcase(nodeid, pattern) for pattern in patterns)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for suite, cell in report.user_properties if report.when == "call" else ():
        if suite in _SUITES:
            who, case = str(cell).split(maxsplit=1)
            why = getattr(report, "wasxfail", "").removeprefix("reason: ")
            outcome = ("cannot", why) if why and report.skipped else (report.outcome, "")
            _tables.setdefault(suite, {}).setdefault(case, {})[who] = outcome
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped[report.nodeid] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped[report.nodeid] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_sessionfinish(session: pytest.Session) -> None:
    passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if STRICT and passed and not all(map(_allowed, _skipped)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for suite, table in sorted(_tables.items()):
        terminalreporter.section(_SUITES[suite])
        columns = sorted({who for cells in table.values() for who in cells})
        width = max(map(len, table)) + 2
        terminalreporter.write_line(" " * width + "".join(f"{who:14}" for who in columns).rstrip())
        for case, cells in sorted(table.items()):
            line = "".join(f"{cells.get(who, ('-', ''))[0]:14}" for who in columns)
            terminalreporter.write_line(f"{case:{width}}{line}".rstrip())
        for case, cells in sorted(table.items()):
            for who, (_, why) in sorted(cells.items()):
                if why:
                    terminalreporter.write_line(f"{who} cannot {case}: {why}")
    if not _skipped:
        return
    terminalreporter.section("skipped")
    for nodeid, why in sorted(_skipped.items()):
        refused = STRICT and not _allowed(nodeid)
        note = "NOT in tests/allowed_skips.txt: " if refused else ""
        terminalreporter.write_line(f"{note}{nodeid}: {why.removeprefix('Skipped: ')}", red=refused)


# --- credentials -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def canary(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes credentials: each call gives another one. Any test that lets one be seen fails.

    Searched: standard output and error, logs at every level, the text and repr of exceptions, `tests.support.run`.
    """
    count = 0

    def key() -> str:
        nonlocal count
        count += 1
        return f"{CANARY}-{count}"

    return key


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    seen = [name for name, text in report.sections if name.endswith(f" {call.when}") and has_canary(text)]
    if call.excinfo and not isinstance(call.excinfo.value, AssertionError):  # an assert shows what it compares
        seen += [f"the {call.excinfo.typename}"] if any(map(has_canary, texts_of(call.excinfo.value))) else []
    if seen:
        report.outcome = "failed"
        report.longrepr = f"a credential leaked into {', '.join(seen)} of {report.nodeid}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _search_what_tests_take() -> Iterator[None]:
    """Exceptions that a test expects, and output that it reads itself, are in no report: look when it takes them."""
    read = pytest.CaptureFixture.readouterr

    def searched(leave: Callable[..., bool]) -> Callable[..., bool]:
        def leave_searched(
            self: object, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> bool:
            for text in texts_of(error) if error else ():
                assert_no_canary(text, f"a {type(error).__name__}")
            return leave(self, kind, error, traceback)

        return leave_searched

    def searched_read(self: pytest.CaptureFixture[str]) -> object:
        taken = read(self)
        for name, text in zip(("standard output", "standard error"), taken, strict=True):
            assert_no_canary(text, name)
        return taken

    with pytest.MonkeyPatch.context() as patch:
        for raises in (pytest.RaisesExc, pytest.RaisesGroup):
            patch.setattr(raises, "__exit__", searched(raises.__exit__))
        patch.setattr(pytest.CaptureFixture, "readouterr", searched_read)
        yield


# --- what tests leave behind -----------------------------------------------------------------------------------------------


def _sockets() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            found.add(str(fd.readlink()))
    return {target for target in found if target.startswith("socket:")}


def _children() -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            stat = (process / "stat").read_text(errors="replace")
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(process.name))
    return found


@pytest.fixture(autouse=True)
def _nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No task, socket or child process outlives its test. Linux only: it looks into /proc."""
    left: set[str] = set()
    cancel_all = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def report_and_cancel(loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(5):  # callbacks that a closed transport has already scheduled
            loop.run_until_complete(asyncio.sleep(0))
        left.update(f"task {task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks(loop))
        cancel_all(loop)

    # What a Runner does with unfinished tasks when it closes; there is no public place to look.
    monkeypatch.setattr(asyncio.runners, "_cancel_all_tasks", report_and_cancel)
    if not Path("/proc/self/fd").exists():
        yield
        return
    sockets, children = _sockets(), _children()
    yield
    if _sockets() - sockets:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # so that the warning about it names this test and not a later one
        left.update(_sockets() - sockets)
    left.update(f"process {pid}" for pid in _children() - children)
    if left:
        pytest.fail("left behind: " + ", ".join(sorted(left)), pytrace=False)
