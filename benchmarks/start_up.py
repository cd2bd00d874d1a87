"""Seconds from starting the server until it listens, and from then until its page can be used.

    python benchmarks/start_up.py [--json] [--repeats 3]

Every start is a new process on an empty home; the page is opened in a headless Chromium that already runs.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import Browser, sync_playwright

from tests.e2e.conftest import FLAGS, find_chromium

ROOT, LIMIT = Path(__file__).resolve().parents[1], 120


def start(browser: Browser, home: str) -> tuple[float, float]:
    """(seconds to listening, seconds from there to a page whose Train button and list of runs are there)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    begun = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--home", home, "--port", str(port)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).read(1)
                break
            except OSError:
                if time.perf_counter() - begun > LIMIT or server.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.02)
        listening = time.perf_counter()
        page = browser.new_page()
        page.goto(address)
        page.locator("#lp-train").wait_for()
        page.locator(".lp-new").wait_for()
        usable = time.perf_counter()
        page.close()
    finally:
        server.terminate()
        server.wait()
    return listening - begun, usable - listening


def main() -> None:
    """Measures and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as place:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        times = [start(browser, str(Path(place) / str(number))) for number in range(given.repeats)]
        browser.close()
    found: dict[str, Any] = {}
    for name, values in zip(("listening_seconds", "usable_seconds"), zip(*times, strict=True), strict=True):
        found[name] = round(statistics.median(values), 2)
        found[f"all_{name}"] = [round(value, 2) for value in values]
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
