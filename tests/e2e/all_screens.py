"""Photographs every screen, to be looked at: `python -m tests.e2e.all_screens --out DIR [--states done,failed] ...`.

Each tab, a lesson, the claims, the class and its door, at three sizes, light and dark, with nothing made yet, with a
run that trains, with two that are done and with one that failed. The runs are constructed, so nothing is trained.
Beside the pictures it writes contact sheets, and says what a machine can see of their faults: see eyesight.js, and
screens that are wider than the window.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.runs import Run
from tests.e2e.camera import SETTLE, app_in_a_browser, keep, open_page
from tests.e2e.steps import widest
from tests.spectrum_runs import finished_run, training_run, updates

SIZES = {"laptop": (1280, 900), "projector": (1920, 1080), "phone": (390, 800)}
TABS = ("fine", "spectrum", "chat", "compare", "lab", "federated", "learn")
PAGES = {
    "class": "class",
    "join": "join",
    "lesson": "?lesson=what-a-rank-is&step=3",
    "claims": "?tab=learn",
    **{tab: f"?tab={tab}" for tab in TABS},
}
STATES = ("empty", "running", "done", "failed")
EYES = Path(__file__).with_name("eyesight.js").read_text()
TALLEST = 2600
"""Pixels of a screen that are photographed at most."""


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    for name, known in (("states", STATES), ("sizes", SIZES), ("looks", ("light", "dark")), ("pages", PAGES)):
        parser.add_argument(f"--{name}", default=",".join(known), help=f"which of {', '.join(known)}")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for state in given.states.split(","):
        with app_in_a_browser(None) as (server, browser), made(state, server.home) as runs:
            for size in given.sizes.split(","):
                page = open_page(browser, server.url, *SIZES[size])
                for look in given.looks.split(","):
                    stem, names = f"{state}-{size}-{look}", given.pages.split(",")
                    taken = [take(page, server.url, name, runs, look, size, given.out / f"{stem}-{name}.png")
                             for name in names]  # fmt: skip
                    sheet(taken, given.out / f"sheet-{stem}.png")
                page.close()


@contextmanager
def made(state: str, home: Path) -> Iterator[list[str]]:
    """Runs in this state, as long as the pictures are taken."""
    shapes, found = module_shapes(EMBEDDED), list[Run]()
    with ExitStack() as held:
        if state == "done":
            for rank, score, drop in ((2, 0.6, 0.02), (8, 0.9, 0.3)):
                changes = updates(shapes, rank, 0.4, seed=rank)
                found.append(finished_run(home, "", changes, {"name": "lora", "rank": rank}, score=score, drop=drop))
        elif state in ("running", "failed"):
            found.append(training_run(home, shapes))
            if state == "failed":
                found[0].fail("nan", "The loss is not a number any more: the learning rate is too high. Halve it.")
            else:
                held.enter_context(found[0].locked())
        yield [run.id for run in found]


def take(page: Any, url: str, name: str, runs: list[str], look: str, size: str, path: Path) -> Path:
    """One screen as high as it is."""
    query = f"&__theme={look}" + (f"&run={runs[-1]}&runs={','.join(runs)}" if runs else "")
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=look)  # the class's pages know nothing of __theme
    page.goto(f"{url}{PAGES[name]}{query if '?' in PAGES[name] else ''}")
    page.wait_for_timeout(3 * SETTLE)
    if name == "claims":
        page.locator(".lp-claim").first.wait_for()
        page.evaluate("document.querySelectorAll('.lp-claim').forEach((claim) => { claim.open = true; })")
        page.wait_for_timeout(SETTLE)
    for fault in page.evaluate(EYES, 16 if size == "projector" else 12):
        print(f"{path.name}: {fault}", flush=True)
    wide, high = widest(page), page.evaluate("document.documentElement.scrollHeight")
    if wide > width:
        print(f"{path.name}: {wide} px wide in a window of {width}", flush=True)
    page.set_viewport_size({"width": width, "height": max(height, min(high, TALLEST))})
    page.wait_for_timeout(SETTLE)
    keep(page.locator("#lp-claims").screenshot() if name == "claims" else page.screenshot(), path)
    return path


def sheet(pictures: list[Path], path: Path, height: int = 900, columns: int = 5) -> None:
    """Small copies of pictures beside each other."""
    small = []
    for picture in pictures:
        with Image.open(picture) as opened:
            part = height / opened.height
            small.append(opened.convert("RGB").resize((max(1, round(opened.width * part)), height)))
    lines = [small[start : start + columns] for start in range(0, len(small), columns)]
    width = max(sum(one.width + 8 for one in line) for line in lines)
    made_ = Image.new("RGB", (width, len(lines) * (height + 8)), "#888888")
    for row, line in enumerate(lines):
        left = 0
        for one in line:
            made_.paste(one, (left, row * (height + 8)))
            left += one.width + 8
    made_.save(path)
    print(path, flush=True)


if __name__ == "__main__":
    main()
