"""Photographs the laboratory: `python -m tests.e2e.lab_slides --home HOME --runs ID,ID --out DIR [--prompt TEXT]`.

It starts a server on that home and takes the parts that are asked for: a direction of the first run, the scores
of mixtures of all runs, the first run over a dial (strength, intruders, or the slice that its like started from), and
its forecast. The words beside each are printed.
"""

import argparse
from pathlib import Path
from typing import Any

from tests.e2e.camera import SETTLE, app_in_a_browser, keep, open_page
from tests.e2e.steps import until

DIALS = ("strength", "intruders", "slice")
PARTS = ("direction", "weights", *DIALS, "forecast")


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="a home with finished runs")
    parser.add_argument("--runs", required=True, help="their ids, with commas between")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    parser.add_argument("--prompt", default="", help="what is asked (default: the first run's own prompt)")
    parser.add_argument("--parts", default="direction,weights", help=f"of {', '.join(PARTS)}; with commas between")
    parser.add_argument("--index", type=int, default=1, help="which direction; 1 is the strongest")
    parser.add_argument("--prefix", default="", help="put before the pictures' names")
    given = parser.parse_args()
    parts = given.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    with app_in_a_browser(given.home) as (server, browser):
        page = open_page(browser, f"{server.url}?tab=lab&runs={given.runs}", 1280, 900)
        for part in parts:
            shot = show(page, part, given.prompt, given.index)
            page.wait_for_timeout(SETTLE)
            keep(page.locator(shot).screenshot(), given.out / f"{given.prefix}{part}.png")
            print(page.locator(shot).inner_text(), flush=True)
        page.close()


def show(page: Any, part: str, prompt: str, index: int) -> str:
    """Has the page show a part; returns what of it is photographed."""
    if part == "direction":
        section(page, "Directions")
        until(page, lambda: page.locator("#lp-dir-prompt textarea").input_value(), "a prompt")
        slider = page.locator("#lp-dir-index input[type=range]")
        for _ in range(index - 1):
            slider.press("ArrowRight")
        ask(page, "dir", prompt, page.locator("#lp-dir-read"))
        return "#lp-dir-card"
    if part == "weights":
        page.set_viewport_size({"width": 1280, "height": 1300})  # so high that the header covers nothing of it
        section(page, "Merge")
        until(page, lambda: page.locator("#lp-mix-w1").is_visible(), "the sliders")
        ask(page, "mix", prompt, page.locator("#lp-mix-ask"))
        page.locator("#lp-mix-score").click()
        until(page, lambda: page.locator("#lp-mix-table .lp-lab-table").count(), "the scores")
        return "#lp-mix-scores"
    if part in DIALS:
        section(page, "Dials")
        until(page, lambda: page.locator("#lp-dial-run input").input_value(), "the run")
        page.locator("#lp-dial-way label").nth(DIALS.index(part)).click()
        page.locator("#lp-dial-turn").click()
        title = "document.querySelector('#lp-dial-picture .js-plotly-plot')?.layout.title.text || ''"
        until(page, lambda: part in page.evaluate(title), "the picture")
        return "#lp-dial-found"
    page.set_viewport_size({"width": 1280, "height": 1300})  # so high that all of it is seen at once
    section(page, "Forecast")
    until(page, lambda: page.locator("#lp-cast-run input").input_value(), "the run")
    page.locator("#lp-cast-take").click()
    until(page, lambda: page.locator("#lp-cast-bars .js-plotly-plot").count(), "the pictures")
    return "#lp-cast-found"


def section(page: Any, name: str) -> None:
    """Opens a section of the tab."""
    page.locator('#lp-lab-tabs [role="tab"]').filter(has_text=name).first.click()


def ask(page: Any, part: str, prompt: str, button: Any) -> None:
    """Asks, and waits until all answers are there."""
    if prompt:
        page.locator(f"#lp-{part}-prompt textarea").fill(prompt)
    button.click()
    said = page.locator(f"#lp-{part}-answers .said")
    until(page, lambda: said.count() and "…" not in "".join(said.all_inner_texts()), "the answers")


if __name__ == "__main__":
    main()
