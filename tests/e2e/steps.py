"""What a person does on the page and sees there, in the words of the tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

PATIENCE = int(os.environ.get("LORA_PLAYGROUND_PATIENCE", 600))
"""Seconds to wait for something that must come; a busy machine is no failure, so this is long."""


def until(page: Any, ready: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Waits until `ready` gives something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        value = ready()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"still waiting for {what}; the view says: {status(page)!r}")
        page.wait_for_timeout(200)


def status(page: Any) -> str:
    """The words of the view on the right."""
    return page.locator("#lp-status").inner_text()


def choose(page: Any, dropdown: str, option: str) -> None:
    """Picks an option of a dropdown by the beginning of its label."""
    page.locator(f"#{dropdown} input").click()
    page.locator('[role="option"]').filter(has_text=option).first.click()


def choose_column(page: Any, label: str, column: str) -> None:
    """Picks a column of an upload."""
    page.get_by_label(label).first.click()
    page.locator('[role="option"]').filter(has_text=column).first.click()


def set_number(page: Any, field: str, value: str) -> None:
    """Types into a number input and leaves it."""
    box = page.locator(f"#{field} input[type=number]")
    box.fill(value)
    box.press("Tab")


def set_rank(page: Any, index: int) -> None:
    """Moves the rank's slider with the keyboard to its index-th place."""
    slider = page.locator("#lp-rank-slider input[type=range]")
    slider.press("Home")
    for _ in range(index):
        slider.press("ArrowRight")


def short_budget(page: Any, seconds: int) -> None:
    """A time budget and small steps, so that a run is short on any machine."""
    page.locator("#lp-unit label").filter(has_text="seconds").click()
    page.locator("#lp-seconds input").wait_for()
    set_number(page, "lp-seconds", str(seconds))
    open_advanced(page)
    set_number(page, "lp-training-batch-tokens", "128")


def settled(page: Any) -> None:
    """Waits after something was opened: one frame after its parts appear, Gradio sets their values once more, and what
    was typed before that is lost."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


def open_fold(page: Any, fold: str) -> None:
    """Opens a fold by its name in the page, as in lp-upload-fold."""
    page.locator(f"#{fold} button").first.click()
    settled(page)


def open_tab(page: Any, name: str) -> None:
    """Opens a tab by its name: on a phone from the line that moves sideways, else as Gradio shows it."""
    if page.locator("#lp-strip").is_visible():
        page.locator("#lp-strip button").filter(has_text=name).first.click()
        settled(page)
        return
    tab = page.locator('#lp-tabs [role="tab"]').filter(has_text=name).first
    if not tab.is_visible():
        page.locator("#lp-tabs .overflow-menu > button").click()
        tab = page.locator("#lp-tabs .overflow-dropdown button").filter(has_text=name).first
    tab.click()
    settled(page)


def open_advanced(page: Any) -> None:
    """Opens Advanced where it is closed."""
    if not page.locator("#lp-training-batch-tokens").is_visible():
        page.locator("#lp-advanced button").first.click()
        page.locator("#lp-training-batch-tokens").wait_for()
        settled(page)


def open_sections(page: Any) -> None:
    """Opens all sections of Spectrum."""
    closed = page.locator('#lp-tab-spectrum .lp-section[aria-expanded="false"]')
    page.locator("#lp-tab-spectrum .lp-section[aria-expanded]").first.wait_for()
    while closed.count():
        closed.first.click()


def points(page: Any, plot: str, trace: int = 0) -> list[float]:
    """The y values that a plot draws now."""
    return page.evaluate(
        """([plot, trace]) => {
            const found = document.querySelector(`#${plot} .js-plotly-plot`);
            const data = found && found.data && found.data[trace];
            return data && data.y ? Array.from(data.y) : [];
        }""",
        [plot, trace],
    )


def cells(page: Any, plot: str) -> list[list[float]]:
    """The z values that a heatmap draws now."""
    return page.evaluate(
        """(plot) => {
            const found = document.querySelector(`#${plot} .js-plotly-plot`);
            const data = found && found.data && found.data[0];
            return data && data.z ? data.z.map((row) => Array.from(row)) : [];
        }""",
        plot,
    )


def answers(page: Any) -> list[str]:
    """The newest answer of each pane."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.lp-pane')].map((pane) => {
            const all = pane.querySelectorAll('.lp-turn .a');
            return all.length ? all[all.length - 1].textContent : '';
        })"""
    )


def ask_again(page: Any) -> None:
    """Asks the last question again and waits for the end of both new answers."""
    page.evaluate("document.querySelectorAll('.lp-pane span[data-i]').forEach((span) => { span.dataset.old = '1'; })")
    page.locator("#lp-again").click()
    until(page, lambda: page.locator(".lp-pane span[data-old]").count() == 0, "the old answers to go")
    until(page, lambda: page.locator("#lp-send").is_visible() and all(answers(page)), "the same question again")


def widest(page: Any) -> int:
    """How wide the page's content is, in pixels."""
    return page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
