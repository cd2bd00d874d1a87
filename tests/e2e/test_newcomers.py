"""What newcomers stumbled over, on runs that are there already: names, Back, loading anew, plots in hidden tabs."""

import pytest

from lora_playground.models.catalogue import EMBEDDED, module_shapes
from tests.e2e.steps import open_tab, points, set_number, status, until
from tests.spectrum_runs import finished_run, updates


@pytest.fixture(scope="module")
def runs(server) -> list[str]:
    made = updates([(name, out, into) for name, out, into in module_shapes(EMBEDDED)], 4, 0.4, 1)
    return [finished_run(server.home, "again", made, {"name": "lora", "rank": 4}).id for _ in range(2)]


def names(page) -> list[str]:
    return page.locator(".lp-run .n").all_inner_texts()


def menu(page, run: str, item: str) -> None:
    page.locator(f'.lp-more[data-id="{run}"]').click()
    page.get_by_role("menuitem", name=item).click()


def test_runs_are_told_apart_renamed_and_deleted_with_undo(page, server, runs):
    until(page, lambda: {"again", "again #2"} <= set(names(page)), "two names")
    menu(page, runs[0], "Rename")
    page.locator(".lp-dialog input").fill("My <b>first</b>")
    page.locator(".lp-dialog button.primary").click()
    until(page, lambda: "My <b>first</b>" in names(page), "the new name")
    open_tab(page, "Compare")
    until(page, lambda: "My <b>first</b>" in page.locator("#lp-compare-table").inner_text(), "the same in the table")
    menu(page, runs[0], "Delete")
    until(page, lambda: "My <b>first</b>" not in names(page), "the line to go")
    page.get_by_role("button", name="Undo").click()
    until(page, lambda: "My <b>first</b>" in names(page), "it is back")
    assert runs[0] in server.runs()


def test_back_and_forward_go_through_tabs_and_runs(page, runs):
    page.locator(f'.lp-open[data-id="{runs[0]}"]').click()
    until(page, lambda: len(points(page, "lp-loss", 1)) > 1, "the loss")
    page.locator("#lp-way-spectrum").click()
    until(page, lambda: len(points(page, "lp-spec-scree")) == 4, "its spectrum, from a fresh page")
    assert f"run={runs[0]}" in page.url and "tab=spectrum" in page.url
    page.go_back()
    until(page, lambda: page.locator("#lp-status").is_visible() and "tab=" not in page.url, "Fine-tune again")
    page.go_back()
    until(page, lambda: "Press Train" in status(page), "the empty page")
    page.go_forward()
    until(page, lambda: "training is done" in status(page), "the run again")


def test_the_form_survives_loading_and_a_plot_fits_when_its_tab_is_shown(page, server, runs):
    set_number(page, "lp-steps-number", "60")
    page.locator("#lp-variant label").filter(has_text="rsLoRA").click()
    until(page, lambda: "rsLoRA" in page.locator("#lp-variant label.selected").inner_text(), "the choice")
    page.wait_for_timeout(500)
    page.goto(f"{server.url}?tab=learn&run={runs[1]}")
    page.locator("#lp-learn").wait_for()
    open_tab(page, "Fine-tune")
    until(page, lambda: page.locator("#lp-steps-number input").input_value() == "60", "the steps")
    assert "rsLoRA" in page.locator("#lp-variant label.selected").inner_text()
    until(page, lambda: len(points(page, "lp-loss", 1)) > 1, "the loss")
    for plot in ("lp-loss", "lp-map", "lp-scree"):
        fits = f"(() => {{ const box = document.querySelector('#{plot}').getBoundingClientRect(); "
        fits += (
            f"return document.querySelector('#{plot} .main-svg').getBoundingClientRect().right <= box.right + 1; }})()"
        )
        until(page, lambda fits=fits: page.evaluate(fits), f"{plot} to fit its card")


def test_an_empty_message_is_told_in_plain_words(page):
    open_tab(page, "Chat")
    page.locator("#lp-send").click()
    until(page, lambda: page.locator("#lp-chat-problem").inner_text() == "Write a message first.", "what to do")
