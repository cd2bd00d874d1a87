"""Lessons in the browser: the first one played as a person plays it, with runs of a few steps, all others walked."""

import json
import re
from urllib.parse import parse_qs, urlparse

import pytest

from lora_playground.lessons import list_lessons
from lora_playground.lessons.catalogue import SHIPPED
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.runs import RunStore
from tests.e2e.steps import cells, points, until
from tests.spectrum_runs import finished_run, updates

FIRST = "what-a-rank-is"
STEPS = 3


@pytest.fixture
def short(server):
    """The first lesson with runs of a few steps, in the place of the shipped one."""
    text = re.sub(r"steps = \d+, batch_tokens = \d+", f"steps = {STEPS}, batch_tokens = 64",
                  (SHIPPED / f"{FIRST}.toml").read_text())  # fmt: skip
    own = server.home / "lessons"
    own.mkdir(exist_ok=True)
    (own / f"{FIRST}.toml").write_text(text)
    yield
    (own / f"{FIRST}.toml").unlink()


def where(page) -> dict:
    """The step as the page has it, once it has one."""
    return until(page, lambda: page.evaluate("window.lp?.lesson?.where()"), "the step")


def at(page, number: int) -> dict:
    """Waits until the page is at a step, counted from 1."""
    until(page, lambda: where(page)["step"] == number - 1, f"step {number}")
    assert parse_qs(urlparse(page.url).query)["step"] == [str(number)]
    return where(page)


def done(page) -> None:
    until(page, lambda: where(page)["done"], f"the end of the step {where(page)['title']!r}")


def forward(page) -> None:
    page.locator(".lp-lesson-foot button").last.click()


def kept(server) -> dict:
    """What the server keeps of the visitor who did something last."""
    files = sorted((server.home / "learners").glob("*.json"), key=lambda path: -path.stat().st_mtime)
    found = [json.loads(path.read_text()) for path in files]
    return next(one["lessons"][FIRST] for one in found if FIRST in one.get("lessons", {}))


def test_the_first_lesson_as_a_person_plays_it(page, server, short):
    page.goto(server.url + "?tab=learn")
    page.locator(f'[data-lesson="{FIRST}"]').click()
    at(page, 1)
    until(page, lambda: page.locator(".lp-lesson .katex").count() >= 2, "formulas set without the network")
    forward(page)
    at(page, 2)
    slider = page.locator("#lp-rank-slider")
    until(page, lambda: "lp-marked" in (slider.get_attribute("class") or ""), "the marked control")
    assert page.locator(".lp-lesson-foot button").last.inner_text() == "Skip"
    slider.locator("input[type=range]").press("ArrowRight")
    done(page)
    forward(page)
    predict(page)
    train_and_look(page, server)
    # Loaded anew, the page is where it was; the server has the prediction as it was locked.
    page.goto(page.url)
    assert at(page, 7)["asked"][0]["answer"] == 1
    assert [given["value"] for given in kept(server)["answers"]["score"]] == [0.6]
    finish(page, server)


def predict(page) -> None:
    at(page, 3)
    assert "lp-marked" not in (page.locator("#lp-rank-slider").get_attribute("class") or ""), "undone on leaving"
    lock = page.get_by_role("button", name="Lock in")
    assert lock.is_disabled()
    page.locator(".lp-lesson-number").fill("60")
    lock.click()
    page.locator(".lp-lesson-locked").wait_for()
    assert page.locator(".lp-lesson-number").count() == 0
    forward(page)
    at(page, 4)
    page.locator(".lp-lesson-choices label").nth(1).click()
    lock.click()
    page.locator(".lp-lesson-locked").wait_for()
    forward(page)


def train_and_look(page, server) -> None:
    at(page, 5)
    page.get_by_role("button", name="Run them").click()
    done(page)
    runs = kept(server)["runs"]
    for key, rank in (("r1", 1), ("r16", 16)):
        config = json.loads((server.home / "runs" / runs[key] / "config.json").read_text())
        assert config["variant"]["rank"] == rank and config["training"]["steps"] == STEPS
    forward(page)
    view = at(page, 6)
    result = json.loads((server.home / "runs" / runs["r1"] / "result.json").read_text())
    assert view["own"] and view["results"][0]["value"] == pytest.approx(result["score"]["adapted"])
    assert "you: 60%" in page.locator(".lp-lesson .lp-sketch").text_content()
    assert page.locator(".lp-lesson-verdict").inner_text() == "It does less well than you thought. " + (
        "One direction is enough for much of the manner, but it also learns more slowly."
    )
    forward(page)
    at(page, 7)
    assert page.locator(".lp-lesson-solved li.right").count() == 1
    assert page.locator(".lp-lesson-solved small").count() == 4, "a sentence for every choice"


def finish(page, server) -> None:
    forward(page)
    at(page, 8)
    page.locator(".lp-lesson-choices label").first.click()
    page.get_by_role("button", name="Lock in").click()
    page.locator(".lp-lesson-locked").wait_for()
    forward(page)
    at(page, 9)
    until(page, lambda: cells(page, "lp-spec-map"), "the map of the tab that the lesson opened")
    assert page.locator('.lp-tick[aria-checked="true"]').count() == 2
    until(page, lambda: "lp-marked" in (page.locator("#lp-spec-scree").get_attribute("class") or ""), "the marked plot")
    done(page)
    for number in (10, 11):
        forward(page)
        at(page, number)
        done(page)
    assert "32,704" in page.locator(".lp-lesson-table").inner_text()
    forward(page)
    at(page, 12)
    forward(page)
    at(page, 13)
    forward(page)
    until(page, lambda: "lesson" not in parse_qs(urlparse(page.url).query), "the address without the lesson")
    assert page.locator('.lp-tick[aria-checked="true"]').count() == 0, "ticks are as before"
    again = page.locator(f'[data-lesson="{FIRST}"]')
    until(page, lambda: again.inner_text() == "Again", "the shelf knows that it was finished")
    assert kept(server)["finished"] and list(kept(server)["skipped"]) == ["11"]


def test_all_lessons_walked_on_a_phone_with_their_controls_there(page, server):
    page.set_viewport_size({"width": 390, "height": 800})
    for lesson in list_lessons():
        page.goto(f"{server.url}?lesson={lesson.name}&step=1")
        for number, step in enumerate(lesson.steps, 1):
            view = at(page, number)
            assert view["title"] == step.title and "not measured" not in json.dumps(view)
            body = page.locator(".lp-lesson-body")
            assert body.evaluate("node => node.scrollWidth <= node.clientWidth + 1"), f"{step.title}: too wide"
            if view.get("control") and not view["missing"]:  # some tabs are empty until a run is ticked
                assert page.locator(f"#{view['control']}").count() == 1, view["control"]
            if number < len(lesson.steps):
                forward(page)
        page.get_by_role("button", name="Leave").click()


def test_back_goes_through_the_steps_and_start_over_forgets(page, server):
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{server.url}?lesson=facts-need-room&step=2")
    at(page, 2)
    page.get_by_role("button", name="Start over").click()  # another test may have seen the results
    at(page, 1)
    page.goto(f"{server.url}?lesson=facts-need-room&step=3")
    at(page, 3)
    page.locator(".lp-lesson-choices label").last.click()
    page.get_by_role("button", name="Lock in").click()
    page.locator(".lp-lesson-locked").wait_for()
    forward(page)
    at(page, 4)
    page.locator(".lp-sketch.open circle").first.press("ArrowUp")
    page.go_back()
    assert at(page, 3)["locked"]
    page.get_by_role("button", name="Start over").click()
    at(page, 1)
    page.goto(f"{server.url}?lesson=facts-need-room&step=3")
    assert not at(page, 3)["locked"]
    page.goto(f"{server.url}?lesson=nothing-of-this-name")
    until(page, lambda: "lesson" not in parse_qs(urlparse(page.url).query), "the page without a lesson")


def test_a_mark_opens_the_closed_section_of_its_control_on_a_phone(blank, server):
    page = blank
    run = finished_run(server.home, "cut", updates(module_shapes(EMBEDDED), 2, 0.4), {"name": "lora", "rank": 2})
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{server.url}?lesson=cut-it&step=8")
    view = at(page, 8)
    assert view["control"] == "lp-spec-mode" and view["missing"]
    assert "is marked" not in page.locator(".lp-lesson-body").inner_text(), "there is nothing to mark yet"
    page.evaluate("(run) => lp.live.go({ runs: [run, '', '', ''] }, 'replace')", run.id)
    until(page, lambda: points(page, "lp-spec-scree"), "the tab's pictures")
    mode = page.locator("#lp-spec-mode")
    until(page, lambda: "lp-marked" in (mode.get_attribute("class") or ""), "the marked control")
    edge = "(node) => [parseFloat(getComputedStyle(node, '::after').top), getComputedStyle(node).overflowX]"
    top, beyond = mode.evaluate(edge)
    assert top < 0 and beyond == "visible", "the mark lies on no word, and is not cut"
    seen = "document.querySelector('#lp-spec-mode').getBoundingClientRect().bottom"
    sheet = "document.querySelector('#lp-lesson').getBoundingClientRect().top"
    until(page, lambda: 0 < page.evaluate(seen) < page.evaluate(sheet), "it above the lesson")
    RunStore(server.home).delete(run.id)
