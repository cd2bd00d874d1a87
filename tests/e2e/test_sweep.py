"""A sweep on screen: its cost before it starts, one entry in the list, results as they come, pause and stop."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.e2e.steps import open_advanced, open_tab, points, set_number, settled, until, widest


def sweep_file(server: Any) -> dict[str, Any]:
    """The newest sweep as it is kept."""
    found = sorted((server.home / "sweeps").glob("*.json"))
    return json.loads(found[-1].read_text()) if found else {}


def choose_ranks(page: Any, *ranks: int) -> None:
    """Ticks these ranks and no other."""
    for label in page.locator("#lp-sweep-ranks label").all():
        label.locator("input").set_checked(int(label.inner_text()) in ranks)  # fails where a click changes nothing


def test_which_rank_is_needed(page, server):
    set_number(page, "lp-steps-number", "8")
    open_advanced(page)
    set_number(page, "lp-training-batch-tokens", "128")
    page.locator("#lp-to-sweep button").click()
    page.locator("#lp-sweep-start").wait_for()
    settled(page)
    choose_ranks(page, 1, 4)
    page.locator("#lp-sweep-race input").check()
    page.locator("#lp-sweep-seeds label").filter(has_text="2").click()
    cost = page.locator("#lp-sweep-cost")
    until(page, lambda: "4 of at most 32 runs, 16 steps" in cost.inner_text(), "the cost: 4 × 2 + 2 × 2 + 1 × 4 steps")
    base = page.locator("#lp-sweep-base").inner_text()
    assert "as in Fine-tune" in base and "lora" in base and "r8" not in base, "the rank is what differs"
    page.locator("#lp-sweep-start").dblclick()
    entry = page.locator('#lp-runs [data-act="sweep"]')
    until(page, lambda: entry.count() == 1, "one entry in the list, for two clicks")
    assert len(list((server.home / "sweeps").glob("*.json"))) == 1
    card = page.locator("#lp-sweep .lp-sweep-card")
    until(page, lambda: "of 4 done" in card.inner_text(), "the sweep")
    page.locator('#lp-sweep [data-ask="pause"]').click()
    until(page, lambda: page.locator('#lp-sweep [data-ask="run"]').count() == 1, "the pause")
    assert sweep_file(server)["wish"] == "pause"
    page.reload()  # what is shown stands in the address
    page.locator('#lp-sweep [data-ask="run"]').click()
    until(page, lambda: sweep_file(server).get("ended"), "the end of the sweep")
    until(page, lambda: "1 done" in re.sub(r"\s+", " ", card.inner_text()).replace("1 of 4 done", "1 done")
          and "3 stopped by the race" in card.inner_text(), "one winner, three that stopped")  # fmt: skip
    ended = sweep_file(server)
    assert sorted(one["out"]["step"] for one in ended["entries"] if one["out"]) == [2, 2, 4]
    assert page.locator("#lp-sweep tbody tr").count() == 4
    said = page.locator("#lp-sweep tbody td").all_inner_texts()
    assert sum("out at step" in text for text in said) == 3
    until(page, lambda: len(points(page, "lp-sweep-fan")) >= 2, "the fan")
    figures = page.locator("#lp-sweep figure")
    until(
        page, lambda: "bits" in figures.filter(has_text="Capacity").locator("figcaption").inner_text(), "the capacity"
    )
    assert page.locator("#lp-runs .lp-run").count() == 1 + len(
        set(server.runs()) - {e["run"] for e in ended["entries"]}
    )
    # A run of the sweep is ticked, and opened, as any other.
    page.locator("#lp-sweep tbody .lp-tick[data-act]").first.click()
    until(page, lambda: page.locator("#lp-sweep tbody .lp-tick[aria-checked=true]").count() == 1, "the tick")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(800)
        assert widest(page) <= width
    page.set_viewport_size({"width": 1280, "height": 720})
    page.locator("#lp-sweep tbody button.lp-link").first.click()
    until(page, lambda: page.locator("#lp-status").inner_text() != "", "the run")


def test_a_sweep_is_deleted_from_its_menu_and_that_can_be_undone(page, server):
    set_number(page, "lp-steps-number", "1")
    open_advanced(page)
    set_number(page, "lp-training-batch-tokens", "128")
    before = set(server.runs())
    page.locator("#lp-to-sweep button").click()
    page.locator("#lp-sweep-start").wait_for()
    settled(page)
    choose_ranks(page, 1, 2)
    cost = page.locator("#lp-sweep-cost")
    until(page, lambda: "2 of at most 32 runs, 2 steps in all" in cost.inner_text(), "the cost")
    old = {path.name for path in (server.home / "sweeps").glob("*.json")}
    page.locator("#lp-sweep-start").click()
    until(page, lambda: len(list((server.home / "sweeps").glob("*.json"))) > len(old), "the sweep")
    until(page, lambda: sweep_file(server).get("ended"), "its end")
    id = sweep_file(server)["id"]
    entry = page.locator(f'#lp-runs .lp-run[data-id="{id}"]')
    card = page.locator("#lp-sweep .lp-sweep-card")
    until(page, lambda: "2 of 2 done" in card.inner_text(), "what it shows")
    entry.locator(".lp-more").click()
    page.locator('.lp-menu [role="menuitem"]').filter(has_text="Delete with all its runs").click()
    until(page, lambda: entry.count() == 0 and card.count() == 0, "it to leave the page")
    page.locator(".lp-toast button").filter(has_text="Undo").click()
    until(page, lambda: entry.count() == 1, "the undo")
    page.wait_for_timeout(9000)  # longer than the time in which a deletion can be undone
    assert sweep_file(server)["id"] == id
    entry.locator(".lp-more").click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    until(page, lambda: id not in {p.stem for p in (server.home / "sweeps").glob("*.json")}, "the deletion")
    until(page, lambda: set(server.runs()) == before, "its runs to be deleted too")
    page.reload()
    page.locator("#lp-runs .lp-side").wait_for()
    assert entry.count() == 0


def test_what_cannot_be_swept_is_said_before_anything_begins(page, server):
    before = set(server.runs())
    open_tab(page, "Lab")
    page.locator("#lp-sweep-more button").first.click()
    page.locator("#lp-sweep-rates textarea, #lp-sweep-rates input").first.fill("0.001, fast")
    until(page, lambda: "numbers with commas" in page.locator("#lp-sweep-problem").inner_text(), "what is allowed")
    page.locator("#lp-sweep-start").click()
    page.wait_for_timeout(500)
    assert "numbers with commas" in page.locator("#lp-sweep-problem").inner_text()
    assert set(server.runs()) == before
