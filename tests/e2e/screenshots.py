"""Takes the pictures of the README from the app itself: `python -m tests.e2e.screenshots [--steps N] [--out DIR]`.

It starts a server on a fresh home, trains one run in the browser, and photographs what a person sees, light and dark.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from lora_playground.data.catalogue import list_datasets
from tests.e2e.camera import app_in_a_browser, light_and_dark, open_page
from tests.e2e.steps import answers, cells, choose, points, set_number, status, until

OUT = Path(__file__).resolve().parents[2] / "assets" / "pictures"


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--home", type=Path, help="a home whose newest finished run is shown; by default one is trained"
    )
    parser.add_argument("--dataset", default="facts-small", help="what to train on, by its name")
    parser.add_argument("--steps", type=int, default=0, help="how long to train; by default as long as the form says")
    parser.add_argument("--out", type=Path, default=OUT, help="where the pictures go")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    labels = [card.label for card in list_datasets(None) if card.name == given.dataset]
    if not labels:
        sys.exit(f"error: there is no dataset {given.dataset}; `python -m lora_playground datasets` lists them")
    with app_in_a_browser(given.home) as (server, browser):
        page = open_page(browser, server.url, 1280, 860)
        if given.home:
            page.locator('#lp-status [data-act="open"]').click()
            page.locator(".lp-run.viewed .lp-tick").click()
        else:
            train(page, labels[0], given.steps)
        take(page, given.out)


def train(page: Any, dataset: str, steps: int) -> None:
    """Trains on this dataset as the form proposes."""
    print(f"training on {dataset}; that and the test questions take minutes, --home shows a run that is there",
          file=sys.stderr)  # fmt: skip
    choose(page, "lp-dataset", dataset)
    if steps:
        set_number(page, "lp-steps-number", str(steps))
    page.locator("#lp-train").click()


def take(page: Any, out: Path) -> None:
    """Photographs Fine-tune, Spectrum and Chat of the run in view."""
    said = [""]

    def ready() -> bool:
        words = status(page)
        head = " ".join(words.split("\n")[:2])
        if head != said[0]:
            said[0] = head
            print(head, file=sys.stderr, flush=True)
        return "adapter on disk" in words

    until(page, ready, "the result", 1800)
    until(page, lambda: points(page, "lp-loss") and points(page, "lp-scree"), "the pictures")
    page.locator("#lp-steps").evaluate("node => node.scrollTo(0, 0)")
    light_and_dark(page, out, "finetune")
    page.locator("#lp-way-spectrum").click()
    until(page, lambda: cells(page, "lp-spec-map") and points(page, "lp-spec-scree"), "map and scree")
    light_and_dark(page, out, "spectrum")
    page.get_by_role("tab", name="Chat").click()
    until(page, lambda: page.locator(".lp-pane").count() == 2, "two panes")
    page.locator(".lp-starters button").first.click()
    until(page, lambda: page.locator(".lp-pane .q").count() > 0, "the question")
    until(page, lambda: all(answers(page)) and page.locator("#lp-send").is_visible(), "both answers")
    light_and_dark(page, out, "chat")


if __name__ == "__main__":
    main()
