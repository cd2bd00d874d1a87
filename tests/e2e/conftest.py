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
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-dev-shm-usage"
).split()
START_SECONDS = 240


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

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.parent / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        # One thread a process, as in all tests: browser, server, worker and chat share the cores.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_PLAYGROUND_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--home", str(home), "--host", "127.0.0.1", "--port", str(self.port)],
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


@contextlib.contextmanager
def guarded(browser):
    """A browser context from which every request to another host is aborted, and fails what uses it."""
    foreign: list[str] = []
    errors: list[str] = []
    made = browser.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    made.set_default_timeout(1000 * PATIENCE)

    def guard(route) -> None:
        if urlparse(route.request.url).hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    made.route("**/*", guard)
    made.on("weberror", lambda error: errors.append(str(error.error)))
    yield made
    made.close()
    assert not foreign, f"the page asked other hosts: {foreign}"
    assert not errors, f"the page's script failed: {errors}"


@pytest.fixture
def context(browser, server):
    with guarded(browser) as made:
        yield made


@pytest.fixture
def page(context, server):
    opened = context.new_page()
    opened.goto(server.url)
    opened.locator("#lp-train").wait_for()
    opened.locator(".lp-new").wait_for()
    return opened
