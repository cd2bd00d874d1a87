"""Takes the pictures of the README from the app itself: `python -m tests.e2e.screenshots [--seconds N] [--out DIR]`.

It starts a server on a fresh home, trains one run in the browser, and photographs what a person sees.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.e2e.conftest import FLAGS, Server, find_chromium
from tests.e2e.steps import answers, cells, points, set_number, status, until

OUT = Path(__file__).resolve().parents[2] / "assets" / "pictures"


def main() -> int:
    """Takes the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--home", type=Path, help="a home whose newest finished run is shown; by default one is trained"
    )
    parser.add_argument("--seconds", type=int, default=60, help="how long to train")
    parser.add_argument("--out", type=Path, default=OUT, help="where the pictures go")
    given = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        print("error: no Chromium; install it or set LORA_PLAYGROUND_CHROMIUM", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(given.home or Path(folder) / "home")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.set_default_timeout(400_000)
            page.goto(server.url)
            page.locator(".lp-new").wait_for()
            if given.home:
                page.locator("#lp-status .lp-link").click()
            else:
                train(page, given.seconds)
            take(page, given.out)
        finally:
            browser.close()
            server.close()
    return 0


def train(page: Any, seconds: int) -> None:
    """Trains what the form proposes for so many seconds."""
    page.locator("#lp-unit label").filter(has_text="seconds").click()
    page.locator("#lp-seconds input").wait_for()
    set_number(page, "lp-seconds", str(seconds))
    page.locator("#lp-train").click()


def take(page: Any, out: Path) -> None:
    """Photographs Fine-tune (light), Chat (light) and Spectrum (dark) of the run in view."""
    until(page, lambda: "adapter on disk" in status(page), "the result", 1800)
    until(page, lambda: points(page, "lp-loss") and points(page, "lp-scree"), "the pictures")
    page.locator("#lp-steps").evaluate("node => node.scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    page.screenshot(path=out / "finetune-light.png")
    page.locator("#lp-way-chat").click()
    until(page, lambda: page.locator(".lp-pane").count() == 2, "two panes")
    page.locator(".lp-starters button").first.click()
    until(page, lambda: page.locator(".lp-pane .q").count() > 0, "the question")
    until(page, lambda: all(answers(page)) and page.locator("#lp-send").is_visible(), "both answers")
    page.wait_for_timeout(800)
    page.screenshot(path=out / "chat-light.png")
    page.locator(".lp-theme").click()
    page.get_by_role("tab", name="Spectrum").click()
    until(page, lambda: cells(page, "lp-spec-map"), "the map")
    page.wait_for_timeout(1500)
    page.screenshot(path=out / "spectrum-dark.png")


if __name__ == "__main__":
    sys.exit(main())
