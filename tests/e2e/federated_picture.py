"""Takes the picture of docs/federated.md from the app itself: `python -m tests.e2e.federated_picture [--out DIR]`.

It starts a server on a fresh home, plays four strategies on the facts of 16 people in the browser, with the settings of
the table in docs/federated.md, and photographs what a person sees, light and dark.
"""

import argparse
from pathlib import Path
from typing import Any

from tests.e2e.camera import app_in_a_browser, light_and_dark, open_page
from tests.e2e.screenshots import OUT
from tests.e2e.steps import choose, points, set_number, settled, until
from tests.e2e.test_federated import open_federated, tick_only, words

STRATEGIES = ("FedIT", "FedEx-LoRA", "FlexLoRA / HLoRA", "FLoRA (stacking)")
SECONDS = 1200


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--home", type=Path, help="a home whose newest federated runs are shown; by default they are made"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where the pictures go")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with app_in_a_browser(given.home) as (server, browser):
        newest = server.runs()[-len(STRATEGIES) :]
        query = f"?tab=federated&runs={','.join(newest)}" if given.home else ""
        page = open_page(browser, server.url + query, 1280, 1330)
        open_federated(page)
        if not given.home:
            play(page)
        ended = f"{len(STRATEGIES)} strategies at their end"
        until(page, lambda: words(page, "table").count("4 of 4") == len(STRATEGIES), ended, SECONDS)
        until(page, lambda: "\n(" not in words(page, "table"), "all saved", SECONDS)
        until(page, lambda: points(page, "lp-fed-spectrum") and points(page, "lp-fed-rank"), "the pictures")
        page.evaluate("window.scrollTo(0, 0)")
        light_and_dark(page, given.out, "federated")


def play(page: Any) -> None:
    """Fills in the form with the settings of the table and starts."""
    choose(page, "lp-fed-dataset", "New facts, 16 people")
    tick_only(page, *STRATEGIES)
    choose(page, "lp-federated-partition", "topic")
    set_number(page, "lp-federated-local-steps", "5")
    page.locator("#lp-federated").get_by_role("button", name="Advanced").click()
    settled(page)
    set_number(page, "lp-fed-training-batch-tokens", "128")
    rate = page.locator("#lp-fed-training-learning-rate input, #lp-fed-training-learning-rate textarea").first
    rate.fill("0.015")
    rate.press("Tab")
    page.locator("#lp-federated").get_by_role("button", name="Advanced").click()
    settled(page)
    page.locator("#lp-fed-start").click()


if __name__ == "__main__":
    main()
