"""The server is killed in mid-run: after the restart the run stands as interrupted, with its curve, and is resumed."""

import json
import os
import signal

from tests.e2e.conftest import Server, guarded
from tests.e2e.steps import open_advanced, points, set_number, status, until


def test_a_killed_server_comes_back_with_its_run(browser, tmp_path):
    home = tmp_path / "home"
    first = Server(home)
    try:
        with guarded(browser) as context:
            page = context.new_page()
            page.goto(first.url)
            page.locator(".lp-new").wait_for()
            set_number(page, "lp-steps-number", "5000")
            open_advanced(page)
            set_number(page, "lp-training-batch-tokens", "128")
            page.locator("#lp-training-checkpoint-every input, #lp-training-checkpoint-every textarea").fill("5")
            page.keyboard.press("Tab")
            page.locator("#lp-train").click()
            (run,) = until(page, first.runs, "the run")
            until(page, lambda: list((home / "runs" / run / "checkpoints").glob("step-*[0-9]")), "a checkpoint")
            until(page, lambda: len(points(page, "lp-loss")) > 1, "the curve")
            visitor = context.cookies()
    finally:
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()

    second = Server(home)
    try:
        with guarded(browser) as context:
            page = context.new_page()
            page.goto(f"{second.url}?run={run}")
            until(page, lambda: "only there can it be resumed" in status(page), "the interrupted run, for a stranger")
            assert not page.locator("#lp-resume").is_visible()
        with guarded(browser) as context:
            context.add_cookies(visitor)
            page = context.new_page()
            page.goto(f"{second.url}?run={run}")
            until(page, lambda: "interrupted" in status(page), "the interrupted run")
            until(page, lambda: len(points(page, "lp-loss")) > 1, "its curve")
            page.locator("#lp-resume").click()

            def again() -> list[dict]:
                events = map(json.loads, (home / "runs" / run / "events.jsonl").read_text().splitlines())
                return [event for event in events if event["type"] == "plan" and event["attempt"] == 2]

            assert until(page, again, "the second attempt")[0]["start_step"] > 0, "it goes on from its checkpoint"
            page.keyboard.press("Escape")
            until(page, lambda: "Stopped by you" in status(page), "the stop")
    finally:
        second.close()
