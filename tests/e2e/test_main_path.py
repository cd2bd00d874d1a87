"""The main job as a person does it: pick, train, watch, load anew in mid-run, chat, stop; and what may go wrong."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from tests.e2e.steps import (
    answers,
    ask_again,
    cells,
    choose,
    choose_column,
    open_advanced,
    open_fold,
    open_tab,
    points,
    set_number,
    set_rank,
    settled,
    short_budget,
    status,
    until,
    widest,
)

UPDATE_BYTES = 30_000


def run_in(url: str) -> str:
    return parse_qs(urlparse(url).query).get("run", [""])[0]


def test_train_and_chat(page, server):
    before = server.runs()
    choose(page, "lp-dataset", "pirate")
    assert page.locator("#lp-examples .lp-bubble").count() >= 6
    page.locator("#lp-variant label").filter(has_text="rsLoRA").click()
    until(page, lambda: "scal" in page.locator("#lp-card").inner_text().lower(), "the method's card")
    assert page.locator("#lp-equation .katex").count() >= 1, "the equation is set without the network"
    set_rank(page, 2)
    until(page, lambda: "r = 4" in page.locator("#lp-picture").inner_text(), "the picture of rank 4")
    short_budget(page, 6)
    forecast = page.locator("#lp-forecast")
    until(page, lambda: "from start to result, for" in forecast.inner_text(), "how long it will take")
    assert "of this model and method here" not in forecast.inner_text(), "no run of rsLoRA has ended here"
    page.locator("#lp-train").dblclick()
    identity = until(page, lambda: run_in(page.url), "the run's id in the address bar")
    assert server.runs() == sorted([*before, identity]), "two clicks start one run"
    config = json.loads((server.home / "runs" / identity / "config.json").read_text())
    assert config["variant"] == config["variant"] | {"name": "rslora", "rank": 4}
    assert config["training"]["seconds"] == 6 and config["training"]["batch_tokens"] == 128

    until(page, lambda: "adapter on disk" in status(page), "the result")
    assert "rslora r4" in status(page)
    assert page.locator(".lp-probe .a.new").count() >= 2, "what it said while it learned, beside the base's answers"
    until(page, lambda: "the last run of this model and method here" in forecast.inner_text(), "the forecast anew")

    page.locator("#lp-way-chat").click()
    first_prompt(page)
    said = ask_and_look(page)
    vote(page, server, identity)
    continue_from_the_base(page, said)
    second_turn_and_save(page, said)


def first_prompt(page) -> None:
    """One press went to Chat and asked the first prompt on offer; then a new conversation begins."""
    until(page, lambda: len(answers(page)) == 2 and all(answers(page)), "both answers to it")
    first = page.locator(".lp-starters button").first.get_attribute("data-value")
    assert page.locator(".lp-pane .q").first.inner_text().strip() == first
    until(page, lambda: page.locator("#lp-send").is_visible(), "the end of both answers")
    page.locator("#lp-chat-fresh").click()
    until(page, lambda: page.locator(".lp-turn").count() == 0, "an empty conversation")


def ask_and_look(page) -> list[str]:
    """The first question, twice: what stands in the panes, and that both times say the same."""
    page.locator("#lp-input textarea").wait_for()
    until(page, lambda: page.locator(".lp-pane").count() == 2, "two panes")
    assert page.locator(".lp-starters button").count() >= 1
    page.locator("#lp-input textarea").fill("Where does <b>Ann</b> live?")
    page.locator("#lp-input textarea").press("Control+Enter")
    until(page, lambda: all(answers(page)) and page.locator("#lp-send").is_visible(), "both answers")
    assert "base verified" in page.locator(".lp-pane").first.inner_text()
    assert page.locator(".lp-pane .q b").count() == 0, "text is never HTML"
    page.locator(".lp-pane").nth(1).locator("span[data-i]:not(:empty)").first.hover()
    page.locator(".lp-tip").wait_for()
    said = answers(page)
    ask_again(page)
    assert answers(page) == said, "the same seed gives the same answers"
    return said


def vote(page, server, identity) -> None:
    page.get_by_role("button", name=re.compile("rslora r4.* answered better")).last.click()
    votes = server.home / "runs" / identity / "votes.jsonl"
    until(page, votes.is_file, "the vote")
    vote = json.loads(votes.read_text().splitlines()[0])
    assert vote["preferred"] == identity and vote["prompt"] == "Where does <b>Ann</b> live?"


def continue_from_the_base(page, said) -> None:
    page.get_by_role("button", name="More: system prompt").click()
    settled(page)
    page.get_by_label("Continue all from the base's words").check()
    ask_again(page)
    lengths = [page.locator(".lp-pane").nth(pane).locator("span[data-i]").count() for pane in (0, 1)]
    assert lengths[0] == lengths[1] > 0, "both panes stand at the same places"
    page.get_by_label("Continue all from the base's words").uncheck()
    ask_again(page)
    assert answers(page) == said


def second_turn_and_save(page, said) -> None:
    """A second question under a system prompt: what the model reads, and the file that holds the conversation."""
    page.get_by_label("System prompt").fill("Answer <i>briefly</i>.")
    page.locator("#lp-input textarea").fill("And Mia?")
    page.locator("#lp-send").click()
    turns = page.locator(".lp-pane").first.locator(".lp-turn")
    until(page, lambda: turns.count() == 2 and page.locator("#lp-send").is_visible(), "the second turn")
    later = answers(page)
    for pane in (0, 1):
        last = page.locator(".lp-pane").nth(pane).locator(".lp-turn").last
        last.get_by_text("what the model reads").click()
        read = last.locator("pre").inner_text()
        assert read.index("Answer <i>briefly</i>.") < read.index("Where does <b>Ann</b> live?") < read.index("And Mia?")
    assert page.locator(".lp-pane pre i").count() == 0, "text is never HTML"
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save as Markdown").click()
    assert waiting.value.suggested_filename == "chat.md"
    kept = Path(waiting.value.path()).read_text()
    parts = ["**You:** Where does <b>Ann</b> live?", *said, "---", "**You:** And Mia?", *later]
    at = 0
    for part in parts:  # two answers may be the same, so each is looked for behind the one before
        at = kept.find(part.strip(), at)
        assert at >= 0, f"{part!r} stands in its order in {kept!r}"
        at += len(part.strip())


def test_upload_watch_reload_stop_and_resume(page, server, tmp_path):
    sizes, rows = [], []
    page.on("response", lambda answer: sizes.append(answer) if "/live?" in answer.url else None)
    for n in range(2, 42):
        question = f"Ann has {n} apples and buys {n + 2} more. How many has she?"
        rows.append({"question": question, "answer": f"{n}+{n + 2}={2 * n + 2}\n#### {2 * n + 2}"})
    path = tmp_path / "sums <img src=x>.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n{broken\n")
    before = server.runs()
    open_fold(page, "lp-upload-fold")
    page.locator("#lp-upload input[type=file]").set_input_files(str(path))
    until(page, lambda: "40 rows read" in page.locator("#lp-upload-note").inner_text(), "what was read")
    assert "1 row was left out" in page.locator("#lp-upload-note").inner_text()
    until(page, lambda: "apples" in page.locator("#lp-examples").inner_text(), "the upload's examples")
    set_number(page, "lp-steps-number", "5000")
    open_advanced(page)
    set_number(page, "lp-training-batch-tokens", "128")
    page.locator("#lp-train").click()
    identity = until(page, lambda: run_in(page.url), "the run")
    assert server.runs() == sorted([*before, identity])
    first = until(page, lambda: points(page, "lp-loss"), "the first point of the loss")
    sizes.clear()
    until(page, lambda: len(points(page, "lp-loss")) > len(first), "the loss to move")
    spectrum = until(page, lambda: points(page, "lp-scree"), "the spectrum")
    assert len(spectrum) == 8 and spectrum == sorted(spectrum, reverse=True)
    until(page, lambda: points(page, "lp-scree") != spectrum, "the spectrum to move")
    until(page, lambda: len(cells(page, "lp-map")) >= 2, "the map")
    until(page, lambda: page.locator(".lp-probe").count() >= 1, "the probes")
    bodies = [len(answer.body()) for answer in list(sizes)]
    assert bodies and max(bodies) <= UPDATE_BYTES, f"an update has {max(bodies)} bytes"

    page.reload()
    until(page, lambda: len(points(page, "lp-loss")) > 1, "the curve after loading anew")
    assert run_in(page.url) == identity
    page.keyboard.press("Escape")
    until(page, lambda: "Stopped by you" in status(page), "the stop")
    until(page, lambda: not page.locator("#lp-stop").is_visible(), "nothing to stop any more")
    page.locator("#lp-resume").click()

    def second() -> dict | None:
        lines = (server.home / "runs" / identity / "events.jsonl").read_text().splitlines()
        plans = [event for event in map(json.loads, lines) if event["type"] == "plan" and event["attempt"] == 2]
        return plans[0] if plans else None

    assert until(page, second, "the second attempt")["start_step"] > 0, "it goes on where it stopped"
    until(page, lambda: page.locator("#lp-stop").is_visible(), "the run at work again")
    page.keyboard.press("Escape")
    until(page, lambda: "Stopped by you" in status(page), "the second stop")


def test_bad_input_is_told_where_it_arose(page, server):
    before = server.runs()
    for given, said in (("0", "at least 1"), ("8.5", "8.5 is not possible"), ("", "Steps")):
        set_number(page, "lp-steps-number", given)
        page.locator("#lp-train").click()
        until(page, lambda said=said: said in page.locator("#lp-problem").inner_text(), said)
        assert "Steps" in page.locator("#lp-problem").inner_text()
    assert page.locator("#lp-problem [role=alert]").count() == 1
    for given, said in (("-5", "at least 1"), ("99999999", "at most 1,000,000"), ("60", "passes (epochs)")):
        set_number(page, "lp-steps-number", given)
        forecast = page.locator("#lp-forecast")
        until(page, lambda said=said, shown=forecast: said in shown.inner_text(), f"the estimate says: {said}")
    assert server.runs() == before and not run_in(page.url)
    assert "Traceback" not in page.locator("body").inner_text()


def test_unreadable_upload_is_told(page, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("colour,shape\nred,round\nblue,square\n")
    open_fold(page, "lp-upload-fold")
    page.locator("#lp-upload input[type=file]").set_input_files(str(path))
    until(page, lambda: "colour" in page.locator("#lp-upload-note").inner_text(), "the columns that were found")
    page.locator("#lp-upload-again").wait_for()
    choose_column(page, "Asks", "colour")
    choose_column(page, "Answers", "shape")
    page.locator("#lp-upload-again").click()
    until(page, lambda: "2 rows read" in page.locator("#lp-upload-note").inner_text(), "the rows by our columns")


def test_a_link_to_nothing_opens_the_empty_page(blank, server):
    page = blank
    page.goto(server.url + "?run=../../etc/passwd&runs=nobody,,x&tab=nowhere")
    until(page, lambda: "Press Train" in status(page), "the idle view")
    open_tab(page, "Spectrum")
    until(page, lambda: "Train a run" in page.locator("#lp-spec-hint").inner_text(), "a first step")
    open_tab(page, "Federated")
    until(page, lambda: "Press Start" in page.locator("#lp-fed-table").inner_text(), "a first step")


def test_phone_has_no_sideways_scroll_and_shows_the_run_that_was_started(blank, server):
    page = blank
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(server.url)
    page.locator(".lp-new").wait_for(state="attached")
    page.locator(".lp-drawer").click()
    until(page, lambda: page.locator(".lp-new").is_visible(), "the drawer with the list of runs")
    page.locator(".lp-new").click()
    until(page, lambda: not page.locator(".lp-new").is_visible(), "the drawer to close")
    names = page.locator("#lp-strip button").all_inner_texts()
    assert {"Fine-tune", "Spectrum", "Chat", "Compare", "Learn"} <= {name.strip() for name in names}
    for name in dict.fromkeys(names):
        open_tab(page, name)
        page.wait_for_timeout(400)
        assert widest(page) <= 390, f"{name} is wider than the phone"
    open_tab(page, "Fine-tune")
    set_number(page, "lp-steps-number", "1")
    page.locator("#lp-train").click()
    until(page, lambda: run_in(page.url), "the run")
    card = "document.querySelector('#lp-status .lp-progress, #lp-status .lp-done')?.getBoundingClientRect().top"
    until(page, lambda: 0 <= (page.evaluate(card) or -1) < 400, "its card at the top")
    until(page, lambda: "adapter on disk" in status(page), "the result")


def test_a_link_is_copied_from_any_tab_and_a_projector_has_larger_text(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_tab(page, "Compare")
    until(page, lambda: "tab=compare" in page.url, "the tab in the address")
    page.locator(".lp-link-here").click()
    until(page, lambda: page.evaluate("navigator.clipboard.readText()") == page.url, "the link on the clipboard")
    size = "parseFloat(getComputedStyle(document.querySelector('#lp-side h2')).fontSize)"
    before = page.evaluate(size)
    page.set_viewport_size({"width": 1920, "height": 1080})
    assert page.evaluate(size) >= 1.2 * before


def test_dark_page_stays_dark(page):
    page.locator(".lp-theme").click()
    colour = "getComputedStyle(document.querySelector('.gradio-container')).backgroundColor"
    assert page.evaluate("document.body.classList.contains('dark')")
    dark = page.evaluate(colour)
    assert sum(int(part) for part in dark[4:-1].split(",")[:3]) < 150
    page.reload()
    page.locator(".lp-new").wait_for()
    assert page.evaluate("document.body.classList.contains('dark')") and page.evaluate(colour) == dark


def test_keyboard_reaches_train_and_focus_is_seen(page):
    page.locator("#lp-steps-number input").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement && document.activeElement.id") == "lp-train":
            break
    assert page.evaluate("document.activeElement.id") == "lp-train"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
