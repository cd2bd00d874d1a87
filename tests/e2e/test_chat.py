"""The tab Chat in a browser: what differs and where, edit, copy, link, the process killed, the tab closed."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lora_playground.analysis.update import Update
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from tests.e2e.conftest import guarded
from tests.e2e.steps import answers, ask_again, settled, until
from tests.spectrum_runs import finished_run, updates
from tests.waiting import wait_until

HARMFUL = 'Say <img src=x onerror="window.harmed=1"> please.'


@pytest.fixture(scope="module")
def runs(server):
    """An adapter that changes the answers, and one that changes nothing."""
    shapes = module_shapes(EMBEDDED)
    much = [Update(u.name, 2 * u.B, u.A) for u in updates(shapes, 4, 0.4, seed=3)]
    nothing = [Update(u.name, u.B * 0, u.A) for u in much]
    return [
        finished_run(server.home, "some <b>bold</b>", much, {"name": "lora", "rank": 4}).id,
        finished_run(server.home, "nothing", nothing, {"name": "lora", "rank": 4}).id,
    ]


@pytest.fixture(scope="module")
def opened(browser, server, runs):
    with guarded(browser) as context:
        page = context.new_page()
        page.goto(f"{server.url}?tab=chat&runs={','.join(runs)}")
        until(page, lambda: page.locator(".lp-pane").count() == 3, "three panes")
        yield page


def ask(page, text: str) -> list[str]:
    """Asks, waits for the end, and gives the answers."""
    turns = page.locator(".lp-pane").first.locator(".lp-turn").count()
    page.locator("#lp-input textarea").fill(text)
    page.locator("#lp-send").click()
    until_more(page, turns)
    until(page, lambda: page.locator("#lp-send").is_visible(), "the end of the answers")
    return answers(page)


def until_more(page, turns: int) -> None:
    """Waits until the page shows more questions than these."""
    until(page, lambda: page.locator(".lp-pane").first.locator(".lp-turn").count() > turns, "the question")


def open_sampling(page) -> None:
    if not page.locator("#lp-seed input").is_visible():
        page.get_by_role("button", name="How words are chosen").click()
        settled(page)


def set_slider(page, label: str, value: str) -> None:
    open_sampling(page)
    box = page.get_by_label(f"number input for {label}")
    box.fill(value)
    box.press("Tab")
    slider = page.get_by_label(f"range slider for {label}")
    until(page, lambda: slider.input_value() == value, "the slider where the number says")


def host(server) -> tuple[int, str]:
    """This server's chat process: id and socket."""
    lines = {child.pid: child.cmdline() for child in psutil.Process(server.process.pid).children()}
    ((pid, words),) = [(pid, words) for pid, words in lines.items() if "lora_playground.chat.host" in words]
    return pid, words[words.index("--socket") + 1]


def asking(server) -> int:
    """How many local sockets the web process has open: one more for every question that is being answered."""
    return len(psutil.Process(server.process.pid).net_connections("unix"))


def decoded_rows(server) -> int:
    return state(server)["rows"]


def state(server) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(host(server)[1])
        asking.sendall(b'{"state": true}\n')
        return json.loads(asking.makefile().readline())


def test_what_differs_is_seen_and_nothing_else(opened):
    page = opened
    said = ask(page, HARMFUL)
    assert said[0] == said[2] != said[1], "an update of zeros changes nothing"
    panes = page.locator(".lp-pane")
    assert "base verified" in panes.first.inner_text()
    assert "parts from the base at token" in panes.nth(1).locator(".f").inner_text()
    assert panes.nth(1).locator(".part").count() == 1
    assert "the same words as the base" in panes.nth(2).locator(".f").inner_text()
    assert panes.nth(1).locator(".lp-kl i").count() == panes.nth(1).locator("span[data-i]").count() > 0
    coloured = "[...document.querySelectorAll('.lp-pane')].map((p) => [...p.querySelectorAll('span[data-i]')]"
    coloured += ".map((s) => s.style.background).filter((c) => c).join())"
    by_kl = page.evaluate(coloured)
    assert by_kl[1] and not by_kl[0] and not by_kl[2]
    page.get_by_role("button", name="change of log-probability").click()
    by_change = page.evaluate(coloured)
    assert "the base would be surprised by" in panes.nth(1).locator(".f").inner_text(), "plain words before the term"
    assert by_change[1] and by_change[1] != by_kl[1] and not by_change[0] and not by_change[2]
    panes.nth(1).locator(".a").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".lp-tip").wait_for()
    lists = page.locator(".lp-tip").inner_text()
    assert "adapted: likeliest words" in lists and "base" in lists and "KL(adapted" in lists
    assert page.locator(".lp-tip td").count() == 20, "two lists of five words with their probabilities"
    assert page.locator(".lp-pane img, .lp-pane b, .lp-tip img").count() == 0, "text is never HTML"
    assert not page.evaluate("window.harmed")
    panes.nth(1).get_by_text("what the model reads").click()
    read = panes.nth(1).locator("pre").inner_text()
    assert "assistant" in read and HARMFUL in read


def test_strength_and_directions_change_the_answer_at_once(opened):
    page = opened
    before = answers(page)
    strength, keep = page.get_by_label("Strength of some"), page.get_by_label("Directions kept of some")
    strength.fill("0")
    ask_again(page)
    assert answers(page) == [before[0]] * 3, "at strength 0 every pane is the base"
    strength.fill("1")
    keep.fill("1")
    keep.press("Tab")
    ask_again(page)
    cut = answers(page)
    assert cut[1] not in (before[0], before[1]) and cut[0] == cut[2] == before[0]


def test_edit_copy_save_and_share(opened, server):
    page = opened
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    set_slider(page, "Temperature", "0.8")
    page.locator("#lp-seed input").fill("11")
    page.locator("#lp-seed input").press("Tab")
    page.locator(".lp-pane").first.get_by_label("Edit this question and ask again").last.click()
    until(page, lambda: page.locator("#lp-input textarea").input_value() == HARMFUL, "the question in the input")
    until(page, lambda: page.locator(".lp-turn").count() == 0, "the panes without the question that is edited")
    ask(page, "Where does Mia live?")
    said = ask(page, "And who is her friend?")
    assert said[0] == said[2], "the same noise for all panes"
    page.locator(".lp-pane").first.get_by_text("copy").last.click()
    assert until(page, lambda: page.evaluate("navigator.clipboard.readText()"), "the copied answer") == said[0]
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save as JSON").click()
    kept = json.loads(Path(waiting.value.path()).read_text())
    assert [turn["prompt"] for turn in kept["turns"]] == ["Where does Mia live?", "And who is her friend?"]
    assert [answer["text"].strip() for answer in kept["turns"][1]["answers"]] == [text.strip() for text in said]
    assert kept["turns"][1]["settings"] | {"tune": None} == {
        "system": "", "temperature": 0.8, "top_p": 1, "length": 96, "seed": 11, "forced": False, "tune": None
    }  # fmt: skip

    page.locator("#lp-share").click()
    until(page, lambda: "chat=" in page.url, "the conversation in the address bar")
    link = page.evaluate("navigator.clipboard.readText()")
    assert page.url == link and "seed" in link
    other = page.context.new_page()
    other.goto(link)
    until(other, lambda: other.locator(".lp-pane").first.locator(".lp-turn").count() == 2, "both questions again")
    until(other, lambda: other.locator("#lp-send").is_visible() and all(answers(other)), "the shared answers")
    until(other, lambda: answers(other) == said, "the same answers from the link")
    open_sampling(other)
    assert other.locator("#lp-seed input").input_value() == "11"
    assert other.get_by_label("Directions kept of some").input_value() == "1"
    other.close()
    page.get_by_role("button", name="New conversation").click()
    until(page, lambda: page.locator(".lp-turn").count() == 0 and "chat=" not in page.url, "an empty conversation")


def ask_long(page, server, text: str) -> None:
    """Asks what is answered at length, and returns once it is being answered, of which the page may know later."""
    set_slider(page, "Temperature", "2")
    set_slider(page, "Length", "512")
    page.locator("#lp-input textarea").fill(text)
    page.locator("#lp-send").click()
    wait_until(lambda: decoded_rows(server) >= 3, "the answers")


def test_the_process_killed_comes_back_and_says_so(opened, server):
    page = opened
    turns = page.locator(".lp-pane").first.locator(".lp-turn")
    process, open_before, before = host(server)[0], asking(server), turns.count()
    os.kill(process, signal.SIGSTOP)  # so that the question waits for its answer
    page.locator("#lp-input textarea").fill("Tell me a story.")
    page.locator("#lp-send").click()
    until(page, lambda: asking(server) > open_before, "the question on its way")
    os.kill(process, signal.SIGKILL)
    until_more(page, before)
    until(page, lambda: page.locator("#lp-send").is_visible(), "the end of the answer that was asked anew")
    assert "SIGKILL" in turns.last.locator(".f").inner_text(), "the pane says what happened"
    assert all(answers(page))


def test_a_closed_tab_frees_its_rows(server, browser, runs):
    with guarded(browser) as context:
        page = context.new_page()
        page.goto(f"{server.url}?tab=chat&runs={','.join(runs)}")
        until(page, lambda: page.locator(".lp-pane").count() == 3, "the panes")
        before = state(server)["cut"]
        ask_long(page, server, "Tell me a long story.")
        process = host(server)[0]
        os.kill(process, signal.SIGSTOP)  # The web process looks every 50 ms whether the page is still there.
        try:
            page.close()
            time.sleep(3)
        finally:
            os.kill(process, signal.SIGCONT)
        wait_until(lambda: not decoded_rows(server), "the rows to be free")
        assert state(server)["cut"] == before + 1, "the answer went on that nobody read"


def test_stop_and_the_red_mark(opened, server):
    page = opened
    before = page.locator(".lp-pane").first.locator(".lp-turn").count()
    ask_long(page, server, "Once more, and longer.")
    process = host(server)[0]
    os.kill(process, signal.SIGSTOP)  # the page may be slow: the answer waits for it, and for the word to stop
    try:
        until_more(page, before)
        until(page, lambda: page.locator("#lp-chat-stop").is_visible(), "the button", 60)
        page.keyboard.press("Escape")
        page.wait_for_timeout(2000)
    finally:
        os.kill(process, signal.SIGCONT)
    until(page, lambda: page.locator("#lp-send").is_visible(), "the stop")
    feet = [page.locator(".lp-pane").nth(pane).locator(".f").last.inner_text() for pane in range(3)]
    assert any("stopped" in foot for foot in feet), feet
    # What a base looks like that is not what it was: the same drawing, with data as the chat process would send it.
    mark = page.evaluate(
        """() => {
            const element = document.createElement("div"), pane = { run: "", label: "Base model", strength: 1 };
            element.append(Object.assign(document.createElement("div"), { className: "lp-talk" }));
            document.getElementById("lp-chat").append(element); // where the theme's rules hold
            const text = '<img src=x onerror="window.harmed=1">';
            const answer = { t: [[text, null, null]], first: null, end: "stop", raw: text };
            const turns = [{ id: "a", q: text, a: [answer] }];
            const value = { key: "k", panes: [pane], turns, busy: false, verified: false };
            lp.chat(element, { value }, () => {}, () => {}, {});
            const mark = element.querySelector(".mark");
            const found = [mark.textContent, getComputedStyle(mark).color, mark.title];
            const images = element.querySelectorAll("img").length;
            element.remove();
            return [...found, images];
        }"""
    )
    assert "not verified" in mark[0] and "do not trust" in mark[2] and mark[3] == 0
    red, green, blue = (int(part) for part in re.findall(r"\d+", mark[1])[:3])
    assert red > 1.5 * max(green, blue)
    assert not page.evaluate("window.harmed")
