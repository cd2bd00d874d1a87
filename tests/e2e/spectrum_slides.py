"""Photographs every view of the tab Spectrum: `python -m tests.e2e.spectrum_slides --home HOME --runs ID,ID --out DIR`.

It starts a server on that home, opens the runs, keeps the two strongest directions of the first, measures its loss and
score over k where that was not done yet, and takes the whole tab and each picture with its sentence, light and dark,
and the tab as a phone shows it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.e2e.conftest import FLAGS, Server, find_chromium
from tests.e2e.steps import points, set_number, until

PICTURES = ("map", "scree", "square", "overlap", "amplified", "aligned", "intruders", "energy", "curve")
SETTLE = 1500
"""Milliseconds for fonts and transitions to come to rest."""


def main() -> int:
    """Takes the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="a home with finished runs")
    parser.add_argument("--runs", required=True, help="their ids, with commas between")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--looks", default="light,dark,phone", help="which of the three")
    parser.add_argument("--no-curve", action="store_true", help="measure no loss and score over k")
    given = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        print("error: no Chromium; install it or set LORA_PLAYGROUND_CHROMIUM", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        server = Server(given.home)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            for look in given.looks.split(","):
                size = {"width": 390, "height": 844} if look == "phone" else {"width": 1280, "height": 720}
                page = browser.new_page(viewport=size)  # type: ignore[arg-type]
                page.set_default_timeout(400_000)
                page.goto(f"{server.url}?tab=spectrum&runs={given.runs}")
                until(page, lambda page=page: points(page, "lp-spec-intruders"), "the pictures")
                if look == "dark":
                    page.locator(".lp-theme").click()
                cut(page, not given.no_curve)
                page.wait_for_timeout(SETTLE)
                take(page, given.out, look)
                page.close()
        finally:
            browser.close()
            server.close()
    return 0


def cut(page: Any, measured: bool) -> None:
    """Keeps the two strongest directions, and measures what every k leaves."""
    page.locator("#lp-spec-mode label").filter(has_text="strongest k").click()
    set_number(page, "lp-spec-k", "2")
    until(page, lambda: "2 strongest" in page.locator("#lp-spec-energy-words").inner_text(), "the cut")
    if measured and not points(page, "lp-spec-curve"):
        page.locator("#lp-spec-measure-cut").click()
        until(page, lambda: points(page, "lp-spec-curve"), "the first points")
    if measured:
        until(page, lambda: "Measuring" not in page.locator("#lp-spec-curve-words").inner_text(), "all points")


def take(page: Any, out: Path, look: str) -> None:
    """The whole tab, and but for the phone each picture with its sentence."""
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(300)
    keep(page.screenshot(full_page=True), out / f"tab-{look}.png")
    if look == "phone":
        return
    for name in PICTURES:
        column = page.locator(f"#lp-spec-{name}").locator("xpath=..")
        column.scroll_into_view_if_needed()
        keep(column.screenshot(), out / f"{name}-{look}.png")


def keep(content: bytes, path: Path) -> None:
    """256 colours are enough for flat surfaces and text, and a third of the size."""
    path.write_bytes(content)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(path, optimize=True)
    print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
