"""Photographs every view of the tab Spectrum: `python -m tests.e2e.spectrum_slides --home HOME --runs ID,ID --out DIR`.

It starts a server on that home, opens the runs, keeps the two strongest directions of the first, measures its loss and
score over k where that was not done yet, and takes the whole tab and each picture with its sentence, light and dark,
and the tab as a phone shows it.
"""

import argparse
from pathlib import Path
from typing import Any

from tests.e2e.camera import SETTLE, app_in_a_browser, keep, open_page
from tests.e2e.steps import open_sections, points, set_number, until

PICTURES = ("map", "scree", "square", "overlap", "amplified", "aligned", "intruders", "energy", "curve")


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="a home with finished runs")
    parser.add_argument("--runs", required=True, help="their ids, with commas between")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--looks", default="light,dark,phone", help="which of the three")
    parser.add_argument("--no-curve", action="store_true", help="measure no loss and score over k")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with app_in_a_browser(given.home) as (server, browser):
        for look in given.looks.split(","):
            size = (390, 844) if look == "phone" else (1280, 720)
            page = open_page(browser, f"{server.url}?tab=spectrum&runs={given.runs}", *size)
            until(page, lambda page=page: points(page, "lp-spec-intruders"), "the pictures")
            open_sections(page)
            if look == "dark":
                page.locator(".lp-theme").click()
            cut(page, not given.no_curve)
            page.wait_for_timeout(SETTLE)
            take(page, given.out, look)
            page.close()


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


if __name__ == "__main__":
    main()
