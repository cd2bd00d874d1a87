"""Photographs the laboratory: `python -m tests.e2e.lab_slides --home HOME --runs ID,ID --out DIR [--prompt TEXT]`.

It starts a server on that home, reads the first run's strongest direction, mixes all runs, and scores the mixtures.
"""

import argparse
from pathlib import Path
from typing import Any

from tests.e2e.camera import SETTLE, app_in_a_browser, keep, open_page
from tests.e2e.steps import until


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="a home with finished runs")
    parser.add_argument("--runs", required=True, help="their ids, with commas between")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--prompt", default="", help="what is asked (default: the first run's own prompt)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with app_in_a_browser(given.home) as (server, browser):
        page = open_page(browser, f"{server.url}?tab=lab&runs={given.runs}", 1280, 900)
        tabs = page.locator('#lp-lab-tabs [role="tab"]')
        tabs.filter(has_text="Directions").first.click()
        until(page, lambda: page.locator("#lp-dir-prompt textarea").input_value(), "a prompt")
        page.locator("#lp-dir-read").click()
        said = page.locator("#lp-dir-answers .said")
        until(page, lambda: said.count() == 5 and "…" not in "".join(said.all_inner_texts()), "five answers")
        take(page, "#lp-dir-card", given.out / "direction.png")
        tabs.filter(has_text="Merge").first.click()
        until(page, lambda: page.locator("#lp-mix-w1").is_visible(), "the sliders")
        if given.prompt:
            page.locator("#lp-mix-prompt textarea").fill(given.prompt)
        page.locator("#lp-mix-ask").click()
        mixed = page.locator("#lp-mix-answers .said")
        until(page, lambda: mixed.count() and "…" not in "".join(mixed.all_inner_texts()), "the mixture's answer")
        page.locator("#lp-mix-score").click()
        until(page, lambda: page.locator("#lp-mix-table .lp-lab-table").count(), "the scores")
        take(page, "#lp-mix-scores", given.out / "weights.png")
        page.close()


def take(page: Any, part: str, path: Path) -> None:
    """One part of the page, once it has come to rest."""
    page.wait_for_timeout(SETTLE)
    keep(page.locator(part).screenshot(), path)


if __name__ == "__main__":
    main()
