"""Takes the picture of a sweep for docs/lab.md: `python -m tests.e2e.sweep_picture --home HOME [--out DIR]`.

It starts a server on a home with a finished sweep, as `python -m lora_playground sweep` leaves it, and photographs what
the tab Lab shows of the newest one.
"""

import argparse
import sys
from pathlib import Path

from tests.e2e.camera import SETTLE, app_in_a_browser, keep, open_page

OUT = Path(__file__).resolve().parents[2] / "docs" / "lab"


def main() -> None:
    """Takes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="a home with a finished sweep")
    parser.add_argument("--out", type=Path, default=OUT, help="where the picture goes")
    parser.add_argument("--name", default="sweep", help="its name, without .png")
    given = parser.parse_args()
    kept = sorted((given.home / "sweeps").glob("*.json"))
    if not kept:
        sys.exit(f"error: there is no sweep in {given.home}; python -m lora_playground sweep makes one")
    given.out.mkdir(parents=True, exist_ok=True)
    with app_in_a_browser(given.home) as (server, browser):
        # So high that what is photographed, the sentence and its pictures, stands on the page without scrolling.
        page = open_page(browser, f"{server.url}?tab=lab&sweep={kept[-1].stem}", 1440, 1800)
        page.locator("#lp-sweep .js-plotly-plot").nth(3).wait_for()
        page.wait_for_timeout(SETTLE)
        top, plots = page.locator("#lp-sweep").bounding_box(), page.locator(".lp-sweep-plots").bounding_box()
        height = plots["y"] + plots["height"] - top["y"]
        clip = {"x": top["x"] - 8, "y": top["y"] - 8, "width": top["width"] + 16, "height": height + 16}
        keep(page.screenshot(clip=clip), given.out / f"{given.name}.png")


if __name__ == "__main__":
    main()
