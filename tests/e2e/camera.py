"""What the programs that take pictures of the app share: a server with a page on it, and small PNG files."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.e2e.conftest import FLAGS, Server, find_chromium

SETTLE = 1500
"""Milliseconds for fonts and transitions to come to rest before a picture is taken."""


@contextmanager
def app_in_a_browser(home: Path | None) -> Iterator[tuple[Server, Any]]:
    """A server on `home`, or on a fresh home, and a browser. Ends the program where there is no Chromium."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("error: no Chromium; install it or set LORA_PLAYGROUND_CHROMIUM")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        playwright = stack.enter_context(sync_playwright())
        server = Server(home or Path(folder) / "home")
        stack.callback(server.close)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        stack.callback(browser.close)
        yield server, browser


def open_page(browser: Any, url: str, width: int, height: int) -> Any:
    """A page of that size, once it is built."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(400_000)
    page.goto(url)
    page.locator(".lp-new").wait_for(state="attached")
    return page


def keep(picture: bytes, path: Path) -> None:
    """Writes a screenshot with 256 colours: enough for flat surfaces and text, and a third of the size."""
    with Image.open(io.BytesIO(picture)) as opened:
        opened.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path} {path.stat().st_size / 1000:.0f} kB", flush=True)


def light_and_dark(page: Any, out: Path, name: str) -> None:
    """The page as it stands, in both themes."""
    for theme in ("light", "dark"):
        page.mouse.move(2, 2)
        page.wait_for_timeout(SETTLE)
        keep(page.screenshot(), out / f"{name}-{theme}.png")
        page.locator(".lp-theme").click()
