"""The app in a real headless Chromium: one server on a home of its own, and pages that reach no other host."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tests.e2e.steps import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    *"--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync".split(),
    *"--no-first-run --disable-dev-shm-usage".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
START_SECONDS = 240
SIZE = {"width": 1280, "height": 720}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(1800))


def find_chromium() -> str | None:
    """LORA_PLAYGROUND_CHROMIUM, or the first browser of Chromium's kind on the PATH."""
    given = os.environ.get("LORA_PLAYGROUND_CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return given or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    path = find_chromium()
    if path is None:
        reason = "no Chromium: install it (Debian: apt-get install chromium) or set LORA_PLAYGROUND_CHROMIUM"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


class Server:
    """A running app. Attributes: url, home (its folder), process."""

    def __init__(self, home: Path, *options: str, port: int = 0) -> None:
        self.home = home
        self.log = home.parent / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = port or free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        # One thread a process, as in all tests: browser, server, worker and chat share the cores.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_PLAYGROUND_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--home", home, "--host", "127.0.0.1", "--port", str(self.port), *options],
                cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-4000:]}"
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.3)
        raise AssertionError(f"the server does not answer:\n{self.log.read_text()[-4000:]}")

    def runs(self) -> list[str]:
        """Ids of all runs in its home."""
        folder = self.home / "runs"
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory, chromium) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("app") / "home")
    yield started
    started.close()


class Visitor:
    """A browser context that reaches no other host. Attributes: context; foreign and errors: what must stay empty."""

    def __init__(self, browser) -> None:
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.context = browser.new_context(viewport=SIZE, accept_downloads=True)
        self.context.set_default_timeout(1000 * PATIENCE)
        self.context.on("request", self._note)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))

    def _note(self, request) -> None:
        # A route that aborts such requests would switch the browser's cache off.
        if urlparse(request.url).hostname not in ("127.0.0.1", None):
            self.foreign.append(request.url)

    def check(self) -> None:
        """Fails if a page asked another host or a script failed since the last check."""
        foreign, errors = self.foreign[:], self.errors[:]
        self.foreign.clear()
        self.errors.clear()
        assert not foreign, f"the page asked other hosts: {foreign}"
        assert not errors, f"the page's script failed: {errors}"


@contextlib.contextmanager
def guarded(browser):
    """The context of a visitor of its own, checked at its end."""
    visitor = Visitor(browser)
    yield visitor.context
    visitor.context.close()
    visitor.check()


@pytest.fixture(scope="session")
def visitor(browser):
    """One visitor for most tests."""
    made = Visitor(browser)
    yield made
    made.context.close()


@pytest.fixture(scope="session")
def lasting_page(visitor):
    """One page for most tests: loading the app on a page that has shown it takes half the time of a new page."""
    return visitor.context.new_page()


@pytest.fixture
def blank(visitor, server, lasting_page):
    """That page as a first visit finds it, with nothing loaded."""
    lasting_page.set_viewport_size(SIZE)
    yield lasting_page
    # Not on the page itself: an answer that is still under way would make it keep its form once more.
    lasting_page.goto(f"{server.url}live")
    lasting_page.evaluate("localStorage.clear(); sessionStorage.clear()")
    visitor.check()


@pytest.fixture
def page(blank, server):
    blank.goto(server.url)
    blank.locator("#lp-train").wait_for()
    blank.locator(".lp-new").wait_for()
    return blank
