"""Two people on one server: each sees their own runs, a page that closes stops nothing, a page outlives the server."""

import os
import signal

from tests.e2e.conftest import Server, guarded
from tests.e2e.steps import open_advanced, points, set_number, status, until

PLOT = "document.querySelector('#lp-loss .js-plotly-plot')"


def zoomed(page):
    """Zooms into the loss by a drag of the mouse; returns the ranges of both axes."""
    page.locator("#lp-loss").hover()
    page.locator('#lp-loss .modebar-btn[data-attr="dragmode"][data-val="zoom"]').click()
    box = page.locator("#lp-loss .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    for part in (0.2, 0.3, 0.4):  # slowly, so that points come in meanwhile
        page.mouse.move(box["x"] + part * box["width"], box["y"] + 1.5 * part * box["height"])
        page.wait_for_timeout(600)
    page.mouse.up()
    return ranges(page)


def ranges(page):
    return page.evaluate(
        f"(() => {{ const {{ xaxis, yaxis }} = {PLOT}.layout; return [xaxis.range, yaxis.range]; }})()"
    )


def train(page, server, steps):
    """Starts a run of so many small steps; returns its id."""
    known = server.runs()
    set_number(page, "lp-steps-number", str(steps))
    open_advanced(page)
    set_number(page, "lp-training-batch-tokens", "128")
    page.locator("#lp-train").click()
    return until(page, lambda: set(server.runs()) - set(known), "the run").pop()


def listed(page):
    return page.locator(".lp-run").evaluate_all("(lines) => lines.map((line) => line.dataset.id)")


def test_two_people_each_with_their_own_runs(browser, chromium, tmp_path):
    first = Server(tmp_path / "home")
    try:
        with guarded(browser) as ada_s:
            ada = ada_s.new_page()
            ada.goto(first.url)
            ada.locator(".lp-new").wait_for()
            assert not ada.locator(".lp-whose").is_visible(), "who is alone is asked nothing about others"
            long = train(ada, first, 20_000)
            until(ada, lambda: len(points(ada, "lp-loss")) > 1, "the curve")
            with guarded(browser) as bob_s:
                bob = bob_s.new_page()
                bob.goto(first.url)
                bob.locator(".lp-whose").wait_for()
                assert listed(bob) == []
                short = train(bob, first, 3)
                until(bob, lambda: listed(bob) == [short], "Bob's own run alone")
                ada.locator(".lp-you button").click()
                ada.locator(".lp-dialog input").fill("Ada <b>")
                ada.locator(".lp-dialog button.primary").click()
                until(ada, lambda: "You are Ada <b>" in ada.locator(".lp-you").inner_text(), "her name")
                bob.get_by_role("button", name="Everyone").click()
                theirs = bob.locator(f'.lp-run[data-id="{long}"]')
                until(bob, lambda: theirs.count() and "Ada <b>" in theirs.inner_text(), "Ada's run with her name")
                theirs.locator(".lp-open").click()
                until(bob, lambda: "Started by Ada <b>" in status(bob), "whose run it is")
                assert not bob.locator("#lp-stop").is_visible()
                assert listed(ada) == [long]
            until(ada, lambda: ranges(ada)[0] == [0, 20_000], "the run's own plot, no recording")
            drawn, before = len(points(ada, "lp-loss")), ranges(ada)
            zoom = zoomed(ada)
            assert 0 < zoom[0][0] < zoom[0][1] < 20_000 and zoom[1] != before[1]
            ada.evaluate(
                f"(() => {{ window.times = 0; {PLOT}.on('plotly_afterplot', () => {{ window.times += 1; }}); }})()"
            )
            until(ada, lambda: ada.evaluate("window.times") >= 10, "ten updates")
            assert len(points(ada, "lp-loss")) > drawn, "the run goes on without Bob"
            assert ranges(ada) == zoom, "the zoom stays while points come in"
            asked = []
            ada.on("request", lambda request: asked.append(request.url) if "/live?" in request.url else None)
            hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); "
            ada.evaluate(hide + "document.dispatchEvent(new Event('visibilitychange')); }", True)
            ada.wait_for_timeout(500)
            asked.clear()
            ada.wait_for_timeout(3000)
            assert not asked, "a hidden page asks nothing"
            ada.evaluate(hide + "document.dispatchEvent(new Event('visibilitychange')); }", False)
            until(ada, lambda: asked, "a question once it is shown again")
            os.killpg(first.process.pid, signal.SIGKILL)
            first.process.wait()
            second = Server(tmp_path / "home", port=first.port)
            try:
                until(ada, lambda: "interrupted" in status(ada), "the open page to come back by itself")
                until(ada, lambda: listed(ada) == [long], "her list")
                assert ada.locator("#lp-resume").is_visible()
            finally:
                second.close()
    finally:
        if first.process.poll() is None:
            first.close()
