"""A class in the browser: a teacher and three people, each in a browser of their own, go through the first lesson."""

import csv
import io
import re
from contextlib import ExitStack

import pytest

from tests.e2e.conftest import guarded
from tests.e2e.steps import until, widest
from tests.e2e.test_lessons import FIRST, at, forward, short, where  # noqa: F401

PREDICTED = {"Ann": "20", "Ben": "60", "Cleo": "55"}


@pytest.fixture
def room(browser, server, short):  # noqa: F811
    """A function that opens a page in a browser of its own."""
    with ExitStack() as open_contexts:
        yield lambda: open_contexts.enter_context(guarded(browser)).new_page()


def test_a_teacher_leads_three_people_through_a_lesson(room, server) -> None:
    teacher = room()
    teacher.goto(server.url + "class")
    teacher.locator("#lp-class-lesson").select_option(FIRST)
    teacher.get_by_role("button", name="Open a class").click()
    code = until(teacher, lambda: teacher.locator(".lp-class-invite .code").inner_text(), "the code", 60)
    assert re.fullmatch(r"[A-HJ-NP-Z2-9]{6}", code)
    assert teacher.request.get(f"{server.url}class/qr?code={code}").headers["content-type"] == "image/svg+xml"
    # This server listens to its own machine alone.
    assert "--workshop" in text(teacher, ".lp-class-invite")
    people = {name: joined(room(), server, code, name) for name in PREDICTED}

    lead(teacher, 2, "Bring everyone here")
    for name, page in people.items():
        at(page, 3)
        assert page.locator(".lp-class-all").count() == 0, "nobody sees answers before giving one"
        page.locator(".lp-lesson-number").fill(PREDICTED[name])
        page.get_by_role("button", name="Lock in").click()
    ann, ben = people["Ann"], people["Ben"]
    until(ann, lambda: "(3 of 3)" in text(ann, ".lp-class-all"), "all three answers")
    assert "Ben" not in text(ann, ".lp-lesson"), "answers have no names"
    forward(ann)
    until(ann, lambda: "held at step 3" in text(ann, ".lp-lesson .lp-error"), "that the class is held")
    assert where(ann)["step"] == 2

    until(teacher, lambda: "3 of 3 answered" in text(teacher, ".lp-class-question"), "the answers")
    assert "Ann" not in text(teacher, "#lp-class"), "names are hidden"
    teacher.get_by_role("button", name="Ask again").first.click()
    answer_again(ben, "80")
    until(teacher, lambda: "1 again" in text(teacher, ".lp-class-question"), "the second answer")
    teacher.get_by_role("button", name="Show what came out").first.click()
    assert "came out:" in text(teacher, ".lp-class-question")

    teacher.set_viewport_size({"width": 390, "height": 800})
    assert widest(teacher) <= 390, "a teacher's phone scrolls one way only"
    lead(teacher, 4, "Bring everyone here")
    show_a_run(teacher, ann, ben)
    check_the_table(teacher, server, code)
    assert ann.request.get(f"{server.url}class/grid?code={code}").status == 404, "only the teacher sees the class"
    teacher.on("dialog", lambda dialog: dialog.accept())
    teacher.get_by_role("button", name="Delete everything of it").click()
    # The page is loaded anew, so it is waited for by a locator, which outlasts that.
    teacher.locator("#lp-class").get_by_text("Teach a class").first.wait_for()
    until(ann, lambda: ann.locator("#lp-class-bar").count() == 0, "that the class is gone")


def text(page, selector: str) -> str:
    """All words inside the first such element, '' where there is none now."""
    return page.evaluate("(selector) => document.querySelector(selector)?.textContent || ''", selector)


def joined(page, server, code: str, name: str):
    """The page of a person who has joined by code, in small letters, and is in the lesson."""
    page.goto(f"{server.url}join?code={code.lower()}")
    page.locator("#lp-join-name").fill(name)
    page.get_by_role("button", name="Join").click()
    page.locator("#lp-class-bar").wait_for()
    at(page, 1)
    return page


def lead(teacher, step: int, what: str) -> None:
    teacher.locator("#lp-class-step").select_option(str(step))
    teacher.get_by_role("button", name=what).click()


def answer_again(page, number: str) -> None:
    page.get_by_role("button", name="Answer again").click()
    page.locator("dialog .lp-lesson-number").fill(number)
    page.locator("dialog").get_by_role("button", name="Lock in").click()
    until(page, lambda: page.locator("dialog").count() == 0, "the second answer to be taken")


def show_a_run(teacher, ann, ben) -> None:
    """One person trains the lesson's runs; the teacher shows one of them, and it opens on another's page."""
    at(ann, 5)
    at(ben, 5)
    ann.get_by_role("button", name="Run them").click()
    until(ann, lambda: where(ann)["done"], "the runs")
    teacher.get_by_role("button", name="show r1", exact=True).first.click()
    until(ben, lambda: re.search(r"[?&]run=\w", ben.url), "the run that is shown")
    until(teacher, lambda: "r1 is shown" in text(teacher, ".lp-class-grid"), "that it is shown")


def check_the_table(teacher, server, code: str) -> None:
    told = teacher.request.get(f"{server.url}class/table.csv?code={code}").text()
    rows = [row for row in csv.DictReader(io.StringIO(told)) if row["what"] == "answer"]
    assert sorted((row["name"], row["attempt"], row["answer"]) for row in rows) == [
        ("Ann", "1", "0.2"), ("Ben", "1", "0.6"), ("Ben", "2", "0.8"), ("Cleo", "1", "0.55"),
    ]  # fmt: skip
