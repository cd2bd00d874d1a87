"""Seconds from pressing Train to the scored result, with what the form proposes, on a warm server.

    python benchmarks/click_to_card.py             # from the queue to the result, no browser
    python benchmarks/click_to_card.py --browser   # from the click to the card, in a headless Chromium

Each run has one step more than the one before, since the same run would be played back.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lora_playground.variants  # noqa: F401  (a config is read by its variant's schema)
from lora_playground.config import RunConfig
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor

STEPS = RunConfig.parse({}).training.steps
PAUSE = 8.0
"""Seconds between two runs, in which the next worker is made ready."""


def queue(runs: int) -> Iterator[float]:
    """Through the supervisor alone."""
    with tempfile.TemporaryDirectory() as folder:
        runner = LocalRunner(Path(folder))
        with Supervisor(Path(folder), runner) as supervisor:
            while not runner.ready():
                time.sleep(0.1)
            for number in range(runs):
                time.sleep(PAUSE)
                began = time.monotonic()
                job = supervisor.submit(RunConfig.parse({"training": {"steps": STEPS + number}}))
                while not supervisor.job(job.id).ended:
                    time.sleep(0.02)
                if supervisor.job(job.id).state != "done":
                    sys.exit(f"error: the run failed: {supervisor.job(job.id).error_message}")
                yield time.monotonic() - began


def browser(runs: int) -> Iterator[float]:
    """In the page, from the click until it shows the run as done."""
    from tests.e2e.camera import app_in_a_browser, open_page
    from tests.e2e.steps import set_number

    with app_in_a_browser(None) as (server, chromium):
        page = open_page(chromium, server.url, 1280, 900)
        page.wait_for_timeout(20_000)  # for the worker's imports
        for number in range(runs):
            if number:
                page.locator(".lp-new").first.click()
                set_number(page, "lp-steps-number", str(STEPS + number))
            page.wait_for_timeout(1000 * PAUSE)
            began = time.monotonic()
            page.locator("#lp-train").click()
            page.wait_for_function("document.getElementById('lp-view').dataset.state === 'done'")
            yield time.monotonic() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="press Train in a real page")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    seconds = [round(one, 1) for one in (browser if given.browser else queue)(given.runs)]
    print(json.dumps({"seconds": seconds}) if given.json else f"{seconds} s")


if __name__ == "__main__":
    main()
